"""Take everything of a training at one instant for a checkpoint, and put it back.

Whatever is needed to go on as if nothing had happened is in one `Snapshot`, written by one rename: weights, optimizer,
schedule, gradient scale, random streams, data position, the sums since the last log line, control, callbacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger
from loopwright.arguments.sharding import sharding_of
from loopwright.callbacks.persistence import capture_states, restore_states
from loopwright.checkpoint.layout import (
    DATA_STATE_NAME,
    LOOPWRIGHT_STATE_NAME,
    OPTIMIZER_NAME,
    RANDOMNESS_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    UPDATE_NAME,
    checkpoint_dir,
    name_of_rank,
)
from loopwright.checkpoint.reader import (
    load_data_state,
    load_loopwright_state,
    load_optimizer,
    load_randomness,
    load_scaler,
    load_scheduler,
    load_update,
)
from loopwright.checkpoint.snapshot import Snapshot
from loopwright.data.nesting import map_leaves
from loopwright.errors import CheckpointError, describe
from loopwright.loop.branching import ended_in_order, spreads_anew
from loopwright.loop.feed import Feed
from loopwright.loop.metrics import metric_name
from loopwright.loop.position import Position, Resumption
from loopwright.loop.sharing import batches_now, spread_of
from loopwright.loop.update import Update
from loopwright.runtime.dtensors import gathered
from loopwright.runtime.randomness import capture_randomness, restore_randomness, set_seed
from loopwright.runtime.wrapping import is_sharded, shared_buffers, unwrap_model
from loopwright.state import CONTROL_FLAGS

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks
    from loopwright.loop.plan import TrainingPlan
    from loopwright.loop.train import TrainingLoop
    from loopwright.runtime.ranks import Ranks

logger: Logger = get_logger(__name__)

FORMAT_VERSION = 1


def take_snapshot(trainer: TrainingHooks, loop: TrainingLoop | None, *, syncs_journal: bool = True) -> Snapshot:
    """Return everything of this instant; without optimizer and randomness where `save_only_model` is set.

    Tensors are shared with the running training, not copied: write it before the next step.

    Arguments:
        trainer: Whose training it is.
        loop: The running loop, None outside of one.
        syncs_journal: Whether the journal is brought onto the disk first; whoever writes later does that himself.
    """
    args, state, ranks = trainer.args, trainer.state, trainer.ranks
    state.stateful_callbacks = capture_states([*trainer.callback_handler.callbacks, trainer.control])
    remember_best(trainer)
    complete = not args.save_only_model
    extra = _data_and_update(trainer, loop) if complete and loop is not None else {}
    randomness = capture_randomness() if complete else None
    if ranks.are_many and complete:
        extra |= _files_of_others(ranks, randomness, extra.get(DATA_STATE_NAME))
    scaler_state = trainer.precision.state_dict() if complete else None
    is_in_parts, model_state, optimizer = _tensors_of(trainer, with_optimizer=complete)
    return Snapshot(
        step=state.global_step,
        model=trainer.model,
        optimizer=optimizer,
        model_state=model_state,
        is_sharded=is_in_parts,
        is_copied=model_state is not None and not is_in_parts,
        scheduler=trainer.lr_scheduler.state_dict() if complete else None,
        scaler=scaler_state or None,
        randomness=randomness,
        trainer_state=state,
        loopwright_state=_own_state(trainer, loop, syncs_journal=syncs_journal),
        training_args_json=args.to_json_string(),
        processing_class=trainer.processing_class,
        history=trainer.saving.history,
        extra=extra,
    )


def _tensors_of(
    trainer: TrainingHooks, *, with_optimizer: bool
) -> tuple[bool, dict[str, Any] | None, dict[str, Any] | None]:
    """Return whether each process writes its part; the model's state where that is to be taken now; the optimizer's."""
    optimizer = trainer.optimizer.state_dict() if with_optimizer else None
    sharding = sharding_of(trainer.args)
    if sharding is None or not is_sharded(trainer.model_wrapped):
        return False, None, optimizer
    trainer.ranks.spread(shared_buffers(trainer.model_wrapped))
    model_state = dict(unwrap_model(trainer.model).state_dict())
    if sharding.writes_shards:
        return True, model_state, optimizer
    return False, _whole(model_state, trainer.ranks), _whole(optimizer, trainer.ranks)


def whole_state(model: Any, ranks: Ranks) -> dict[str, Any] | None:
    """Return the state dict of a sharded model, whole, on the first process; None where the model itself will do.

    All processes have to call it where the model is sharded.
    """
    return _whole(dict(unwrap_model(model).state_dict()), ranks) if is_sharded(model) else None


def _whole(state: Any, ranks: Ranks) -> Any:
    """Return `state` gathered, on the first process; on the others, which need memory for one tensor, without them."""
    return map_leaves(state, lambda value: gathered(value, is_kept=ranks.is_first))


def _data_and_update(trainer: TrainingHooks, loop: TrainingLoop) -> dict[str, Any]:
    """Return what goes into files of its own where a training can't be gone on with from numbers alone."""
    extra: dict[str, Any] = {}
    if (data := loop.feed.state()) is not None:
        extra[DATA_STATE_NAME] = data
    if loop.update is not None and loop.update.done:
        extra[UPDATE_NAME] = loop.update.state(unwrap_model(trainer.model))
    return extra


def _files_of_others(ranks: Ranks, randomness: Any, data: Any) -> dict[str, Any]:
    """Return what the other processes have of their own, by file; all of them call this, and the first one gets it."""
    found = ranks.gather((randomness, data)) or []
    files: dict[str, Any] = {}
    for index, (states, place) in enumerate(found[1:], 1):
        files[name_of_rank(RANDOMNESS_NAME, index)] = states
        if place is not None:
            files[name_of_rank(DATA_STATE_NAME, index)] = place
    return files


def _own_state(trainer: TrainingHooks, loop: TrainingLoop | None, *, syncs_journal: bool) -> dict[str, Any]:
    own: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run_id": trainer.run_id,
        "callbacks_at_start": trainer.callbacks_at_start,
        "journal": trainer.reporting.whereabouts(syncs=syncs_journal),
        "decisions": [str(decision) for decision in trainer.callback_handler.decisions],
        "metric": _metric_here(trainer),
        "spread": spread_of(trainer),
    }
    if loop is not None:
        own["loop"] = loop.state()
    return own


def _metric_here(trainer: TrainingHooks) -> dict[str, Any] | None:
    """Return the metric that says which checkpoint is best, as measured at this very step; None where it wasn't."""
    state = trainer.state
    if trainer.args.metric_for_best_model is None:
        return None
    name = metric_name(trainer.args)
    for line in reversed(state.log_history):
        if line.get("step") != state.global_step:
            break
        if name in line:
            return {"name": name, "value": line[name]}
    return None


def remember_best(trainer: TrainingHooks) -> None:
    """Let `state.best_model_checkpoint` name the best step's checkpoint, where that exists or is about to."""
    state = trainer.state
    if trainer.args.save_strategy == "no" or not state.best_global_step:
        return
    best = checkpoint_dir(trainer.args.output_dir, state.best_global_step)
    if state.best_global_step == state.global_step or best.is_dir():
        state.best_model_checkpoint = str(best)


def position_in(trainer: TrainingHooks, directory: Path, plan: TrainingPlan) -> Position:
    """Return where in the data the checkpoint stands; worked out from the step where transformers wrote it."""
    own, global_step = load_loopwright_state(directory) or {}, trainer.state.global_step
    if trainer.args.ignore_data_skip:
        return Position(global_step // plan.steps_per_epoch)
    if "loop" in own:
        with _fitting(directory, LOOPWRIGHT_STATE_NAME):
            position = Position(**own["loop"]["position"])
        if spreads_anew(directory, trainer.args):
            position.batches = min(batches_now(position.batches, own["spread"], trainer), plan.batches_per_epoch)
        return position
    epoch, steps = divmod(global_step, plan.steps_per_epoch)
    return Position(epoch, steps * plan.accumulation)


def restore_callbacks(trainer: TrainingHooks, directory: Path) -> None:
    """Put the saved states back into the callbacks, in place."""
    own = load_loopwright_state(directory) or {}
    # Not the control: its flags have been acted on, or fall when training, epoch and step begin.
    saved = {name: state for name, state in trainer.state.stateful_callbacks.items() if name != "TrainerControl"}
    restore_states(trainer.callback_handler.callbacks, saved, own.get("callbacks_at_start"))


def restore_loop(trainer: TrainingHooks, loop: TrainingLoop, directory: Path) -> None:
    """Put optimizer, schedule, gradient scale and loss sums back; the rest follows when the data stands."""
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    if (optimizer_state := load_optimizer(directory, parameters)) is None:
        logger.warning("%s holds weights alone: the optimizer starts anew", directory)
    else:
        with _fitting(directory, OPTIMIZER_NAME):
            trainer.optimizer.load_state_dict(optimizer_state)
    if (scheduler_state := load_scheduler(directory)) is not None:
        with _fitting(directory, SCHEDULER_NAME):
            trainer.lr_scheduler.load_state_dict(scheduler_state)
    if (scaler_state := load_scaler(directory)) is not None:
        with _fitting(directory, SCALER_NAME):
            trainer.precision.load_state_dict(scaler_state)
    saved = (load_loopwright_state(directory) or {}).get("loop", {})
    if saved:
        with _fitting(directory, LOOPWRIGHT_STATE_NAME):
            loop.load_state(saved)
    loop.resumption = _resumption(trainer, directory, saved)


def _resumption(trainer: TrainingHooks, directory: Path, saved: dict[str, Any]) -> Resumption:
    """Return what is to be put back when the data stands; `saved` is what the loop itself had saved."""
    is_spread_anew, index = spreads_anew(directory, trainer.args), trainer.ranks.index
    resumption = Resumption(flags=_flags_to_act_on(trainer, saved))
    randomness = None if is_spread_anew and index else load_randomness(directory, index)
    if randomness is not None:
        resumption.restore_streams = lambda: restore_randomness(randomness)
    elif index:
        seed = trainer.ranks.seed(trainer.args.seed + trainer.state.global_step)
        resumption.restore_streams = lambda: set_seed(seed)
    if trainer.args.ignore_data_skip:
        return resumption
    data = load_data_state(directory, index)
    if data is not None and is_spread_anew:
        raise CheckpointError(
            f"{directory} was made by another number of processes, each at a place of its own in data that can't be "
            "gone through by number: go on with as many as then, or begin the epoch anew with ignore_data_skip=True"
        )
    if data is not None and not Feed.could_begin_with(data):
        raise CheckpointError(f"{directory / DATA_STATE_NAME}: doesn't say where in the data a training stood")
    resumption.data = data
    if (update := load_update(directory)) is not None:
        with _fitting(directory, UPDATE_NAME):
            resumption.update = Update.from_state(update, unwrap_model(trainer.model), trainer.args.device)
    return resumption


@contextmanager
def _fitting(directory: Path, name: str) -> Iterator[None]:
    """Let an error inside name the file of the checkpoint whose content it comes from.

    That is another optimizer's, say: what a file holds can be read, and not be put back into this training.
    """
    try:
        yield
    except Exception as error:  # whatever torch's load_state_dict stumbles over
        raise CheckpointError(f"{directory / name}: doesn't fit this training: {describe(error)}") from error


def _flags_to_act_on(trainer: TrainingHooks, saved: dict[str, Any]) -> dict[str, bool] | None:
    """Return the control flags that were set when the checkpoint was made and that nothing has come of."""
    if saved.get("flags"):
        return dict(saved["flags"])
    if not saved.get("stops"):
        return None
    # The first process alone looks: it will soon begin an attempt there, which hasn't ended.
    if trainer.ranks.of_first(lambda: ended_in_order(trainer.args.output_dir, trainer.run_id)):
        return None
    # A callback had stopped the training, and a kill came before it could end.
    return {flag: flag == "should_training_stop" for flag in CONTROL_FLAGS}
