"""One `train()` from beginning to end: what to resume, the preparations, the loop, and the closing metrics."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.callbacks.costs import CostWatch
from loopwright.callbacks.persistence import capture_states
from loopwright.checkpoint.reader import load_loopwright_state, load_model_weights, load_trainer_state
from loopwright.data.loaders import data_seed
from loopwright.errors import CheckpointError, Preempted, describe
from loopwright.loop.agreement import agreement_of
from loopwright.loop.batch_size import BatchSizeSearch, check_size_is_used
from loopwright.loop.branching import restarted_run, why_branch
from loopwright.loop.feed import Feed
from loopwright.loop.neftune import input_embeddings, noisy_embeddings
from loopwright.loop.persist import position_in, restore_callbacks, restore_loop
from loopwright.loop.plan import TrainingPlan, make_plan
from loopwright.loop.position import Position
from loopwright.loop.report import LossWindow, speed_metrics
from loopwright.loop.sharing import Shares, keep_update_size
from loopwright.loop.train import TrainingLoop
from loopwright.outputs import TrainOutput
from loopwright.records import Status
from loopwright.runtime.signals import SignalWatch
from loopwright.runtime.wrapping import unwrap_model
from loopwright.state import TrainerState, plain_number

logger: Logger = get_logger(__name__)


class TrainingSession:
    """Prepares and runs one training of a Trainer.

    Arguments:
        trainer: Whose hooks, arguments and state are used.
        checkpoint: Where to go on from; None for a new start.
        goes_on: Whether a new start may do over a run that broke off before its first checkpoint.
    """

    def __init__(self, trainer: Any, checkpoint: Path | None, *, goes_on: bool = False) -> None:
        self.trainer = trainer
        self.checkpoint = checkpoint
        self.goes_on = goes_on
        self.is_again: bool = False
        self.signals: SignalWatch = SignalWatch(is_on=trainer.args.signal_action != "off")

    def run(self, ignore_keys_for_eval: list[str] | None) -> TrainOutput:
        """Train, and return what was done; journal and trackers learn how it ended, whichever way it does.

        Raises:
            Preempted: a signal came, the training is saved, and `signal_action` is "exit".
        """
        trainer = self.trainer
        costs = CostWatch(trainer.callback_handler)
        with self.signals:
            try:
                with trainer.ranks.failing_together():
                    output = self._train(ignore_keys_for_eval)
            except BaseException as error:
                self._save_after(error)
                trainer.callback_handler.on_exception(trainer.args, trainer.state, trainer.control, exception=error)
                self._end_reporting(*_failure(error))
                raise
            finally:
                costs.tell()
                trainer.saving.end()
                if trainer.training_loop is not None:
                    trainer.training_loop.feed.close(at_once=self._is_paused())
            self._end_reporting(*self._ending())
        if self.signals.received is not None and not self._is_paused():
            self._leave()  # it came when there was nothing left to save
        return output

    def _train(self, ignore_keys_for_eval: list[str] | None) -> TrainOutput:
        trainer = self.trainer
        trainer._train_batch_size = self._first_batch_size()
        if self.checkpoint is not None or not trainer.args.auto_find_batch_size:
            return self._train_with(None, ignore_keys_for_eval)
        search = BatchSizeSearch(trainer)
        while True:
            try:
                return self._train_with(search, ignore_keys_for_eval)
            except RuntimeError as error:
                reason = search.why_go_back(error)
                if reason is None:
                    raise
            search.go_back(reason)  # out here, where nothing holds the failed update's tensors any more
            self.is_again = True

    def _first_batch_size(self) -> int:
        args = self.trainer.args
        size: int = args.train_batch_size
        if self.checkpoint is not None and args.auto_find_batch_size:
            return load_trainer_state(self.checkpoint).train_batch_size or size
        return size

    def _train_with(self, search: BatchSizeSearch | None, ignore_keys_for_eval: list[str] | None) -> TrainOutput:
        trainer = self.trainer
        trainer.training_loop = None
        if self.checkpoint is not None:
            load_model_weights(unwrap_model(trainer.model), self.checkpoint)
            keep_update_size(trainer, self.checkpoint)
        loader = trainer.get_train_dataloader()
        check_size_is_used(loader, trainer._train_batch_size, trainer.args.train_batch_size)
        plan = make_plan(trainer.args, loader, trainer._train_batch_size * trainer.ranks.size)
        self._begin_state(plan)
        self._prepare_model(plan)
        loop = self._make_loop(plan, loader)
        loop.ignore_keys_for_eval = ignore_keys_for_eval
        trainer.training_loop = loop
        handler = trainer.callback_handler
        handler.model, handler.optimizer, handler.lr_scheduler = trainer.model, trainer.optimizer, trainer.lr_scheduler
        handler.train_dataloader = loader
        first_step = trainer.state.global_step
        self._announce(plan)
        if not self.is_again:
            self._begin_reporting()
        trainer.saving.begin()
        if search is not None:
            search.watch(loop)
        with noisy_embeddings(unwrap_model(trainer.model), trainer.args.neftune_noise_alpha):
            loop.run()
        with loop.clock.taking("saving"):
            trainer.saving.finish()
        if loop.is_paused:
            self._save_paused(loop)
            self._leave()
        return self._finish(plan, loop, first_step)

    # Ending before the end

    def _is_paused(self) -> bool:
        loop = self.trainer.training_loop
        return loop is not None and loop.is_paused

    def _save_paused(self, loop: TrainingLoop) -> None:
        """Save what has been trained since the newest checkpoint, if anything."""
        trainer = self.trainer
        has_begun = trainer.state.global_step > 0 or loop.position.batches > 0
        if has_begun and loop.mark() != loop.saved_mark:
            trainer.saving.save_and_tell(at_once=True)

    def _leave(self) -> None:
        trainer, signal = self.trainer, self.signals.received
        if signal is not None and trainer.args.signal_action == "exit":
            raise Preempted(signal.value, signal.name, trainer.state.global_step)

    def _save_after(self, error: BaseException) -> None:
        """Wait for the checkpoint that is being written; after an exception of the training make one if wanted."""
        trainer, loop = self.trainer, self.trainer.training_loop
        try:
            trainer.saving.finish_alone()
            may_save = trainer.args.save_on_exception and not trainer.ranks.are_many  # the others are gone
            is_wanted = may_save and not isinstance(error, Preempted | CheckpointError)
            if is_wanted and loop is not None and self._can_save_after_exception(loop):
                loop.rewind()
                trainer.saving.save_and_tell(at_once=True)
        except Exception as another:  # the one that ends the training is to be seen, not what follows from it
            logger.error("no checkpoint after %s: %s", type(error).__name__, describe(another))

    def _can_save_after_exception(self, loop: TrainingLoop) -> bool:
        step = self.trainer.state.global_step
        if not loop.is_whole:
            logger.warning("no checkpoint: the exception came while the weights were changing")
            return False
        # What a save has kept of this very step is exact, which this one couldn't be.
        return step > 0 and not (loop.saved_mark is not None and loop.saved_mark[0] == step)

    def _ending(self) -> tuple[Status, str | None]:
        """Return how a training that raised nothing has ended, and who ended it."""
        state = self.trainer.state
        if self._is_paused() and self.signals.received is not None:
            return Status.PREEMPTED, f"{self.signals.received.name} at step {state.global_step}"
        if state.global_step >= state.max_steps:
            return Status.COMPLETED, None
        stops = [decision for decision in self.trainer.callback_handler.decisions if decision.stops_training]
        return Status.STOPPED, str(stops[-1]) if stops else None

    def _end_reporting(self, status: Status, reason: str | None) -> None:
        trainer = self.trainer
        if trainer.training_loop is not None:
            trainer.reporting.note_costs(trainer.training_loop.clock.account())
        trainer.reporting.end(status, reason)

    def _begin_reporting(self) -> None:
        trainer, checkpoint = self.trainer, self.checkpoint
        step = trainer.state.global_step
        if checkpoint is None:
            restarted = restarted_run(trainer.args.output_dir, trainer.args) if self.goes_on else None
            if restarted or trainer.has_trained:
                trainer.run_id = restarted or uuid.uuid4().hex
            trainer.has_trained = True
            trainer.reporting.begin(resumed_at={"position": 0} if restarted else None)
            return
        trainer.has_trained = True
        own = load_loopwright_state(checkpoint) or {}
        reason = why_branch(checkpoint, trainer.args.output_dir, trainer.args)
        if reason is None:
            trainer.reporting.begin(first_step=step, resumed_at=own.get("journal"))
            trainer.reporting.note_resumed(checkpoint)
            return
        parent, trainer.run_id = trainer.run_id, uuid.uuid4().hex
        logger.warning("going on as a new run, branched off %s at step %d: %s", parent[:8], step, reason)
        trainer.reporting.begin(first_step=step, parent=(parent, step))

    def _begin_state(self, plan: TrainingPlan) -> None:
        trainer, args = self.trainer, self.trainer.args
        trainer.callbacks_at_start = capture_states(trainer.callback_handler.callbacks)
        if self.checkpoint is None:
            trainer.ranks.part_streams(args.seed)
            state = TrainerState(epoch=0, train_batch_size=trainer._train_batch_size)
            state.compute_steps(args, plan.max_steps)
        else:
            state = load_trainer_state(self.checkpoint)
            self._check_best(state)
            self._compare_cadence(state, plan)
        state.max_steps = plan.max_steps
        state.num_train_epochs = plan.num_epochs
        state.is_local_process_zero = trainer.is_local_process_zero()
        state.is_world_process_zero = trainer.is_world_process_zero()
        if trainer.trial is not None:
            self._take_trial(state)
        trainer.state = state
        if self.checkpoint is not None:
            own = load_loopwright_state(self.checkpoint) or {}
            trainer.run_id = own.get("run_id", trainer.run_id)
            if args.restore_callback_states_from_checkpoint:
                restore_callbacks(trainer, self.checkpoint)
                trainer.callbacks_at_start = own.get("callbacks_at_start", trainer.callbacks_at_start)

    def _compare_cadence(self, state: TrainerState, plan: TrainingPlan) -> None:
        """Let the cadence of the present arguments count, and say where it differs from the checkpoint's."""
        before = {kind: getattr(state, f"{kind}_steps") for kind in ("logging", "eval", "save")}
        state.compute_steps(self.trainer.args, plan.max_steps)
        changed = [
            f"{kind}_steps={getattr(state, f'{kind}_steps')} was {old}"
            for kind, old in before.items()
            if getattr(state, f"{kind}_steps") != old
        ]
        batch_size = self.trainer._train_batch_size
        if state.train_batch_size not in (None, batch_size):
            changed.append(f"batch size {batch_size} was {state.train_batch_size}")
        if changed:
            logger.warning("resuming with other arguments than %s: %s", self.checkpoint, ", ".join(changed))
        state.train_batch_size = batch_size

    def _take_trial(self, state: TrainerState) -> None:
        trial = self.trainer.trial
        parameters = json.loads(json.dumps(trial.parameters, default=plain_number))
        if state.is_hyper_param_search and state.trial_params != parameters:
            raise CheckpointError(
                f"{self.checkpoint} is another trial's: {state.trial_name or 'it'} has {state.trial_params}, "
                f"{trial.name or 'this one'} has {parameters}"
            )
        state.is_hyper_param_search, state.trial_name, state.trial_params = True, trial.name, parameters

    @staticmethod
    def _check_best(state: TrainerState) -> None:
        if state.best_model_checkpoint is not None and not Path(state.best_model_checkpoint).is_dir():
            logger.warning("the best checkpoint so far, %s, is gone", state.best_model_checkpoint)
            state.best_model_checkpoint = None

    def _prepare_model(self, plan: TrainingPlan) -> None:
        trainer = self.trainer
        if alpha := trainer.args.neftune_noise_alpha:
            input_embeddings(unwrap_model(trainer.model), alpha)  # raises before anything is begun
        trainer.prepare_model_for_training()
        trainer.forget_own_scheduler()
        trainer.create_optimizer_and_scheduler(num_training_steps=plan.max_steps)
        trainer.model.zero_grad()

    def _make_loop(self, plan: TrainingPlan, loader: Any) -> TrainingLoop:
        trainer, args = self.trainer, self.trainer.args
        window = LossWindow(args.device, only_finite=args.logging_nan_inf_filter, ranks=trainer.ranks)
        position = Position()
        if self.checkpoint is not None:
            position = position_in(trainer, self.checkpoint, plan)
        pause, agreement = agreement_of(trainer, self.signals)
        feed = Feed(
            loader,
            seed=trainer.ranks.seed(data_seed(args)),
            check=pause.stop_while_waiting if self.signals.is_on else None,
            shows_progress=not args.disable_tqdm,
        )
        loop = TrainingLoop(trainer, plan, feed, position, window, pause)
        if agreement is not None:
            loop.agreement, loop.shares = agreement, Shares(trainer, trainer.ranks, loader)
        trainer.callback_handler.hold_back = None if agreement is None else agreement.hold_back
        if self.checkpoint is not None:
            restore_loop(trainer, loop, self.checkpoint)
        loop.saved_mark = loop.mark()
        return loop

    def _announce(self, plan: TrainingPlan) -> None:
        trainer = self.trainer
        trainable = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
        logger.info(
            "training on %s%s: %s examples, %d updates of %d x %d examples, %s trainable parameters",
            trainer.args.device,
            f", {trainer.ranks.size} processes" if trainer.ranks.are_many else "",
            f"{plan.num_examples:,}",
            plan.max_steps,
            plan.accumulation,
            trainer._train_batch_size * trainer.ranks.size,
            f"{trainable:,}",
        )
        if self.checkpoint is not None:
            logger.info("going on from %s, step %d", self.checkpoint, trainer.state.global_step)

    def _finish(self, plan: TrainingPlan, loop: TrainingLoop, first_step: int) -> TrainOutput:
        trainer, args, state = self.trainer, self.trainer.args, self.trainer.state
        steps = state.global_step - first_step
        if loop.is_paused:
            trainer.control = trainer.callback_handler.on_train_end(args, state, trainer.control)
            metrics = loop.lines.window.overall()
            return TrainOutput(state.global_step, metrics["train_loss"], metrics)
        samples = plan.num_train_samples * steps / max(plan.max_steps, 1)
        metrics = speed_metrics("train", loop.lines.start_time, samples, steps)
        if state.total_flos:
            metrics["total_flos"] = state.total_flos
        metrics.update(loop.lines.window.overall())
        trainer.memory.add_to(metrics, "train")
        trainer.log(metrics)
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            logger.info("loading the best weights, from %s", state.best_model_checkpoint)
            load_model_weights(unwrap_model(trainer.model), Path(state.best_model_checkpoint))
        trainer.control = trainer.callback_handler.on_train_end(args, state, trainer.control)
        return TrainOutput(state.global_step, metrics["train_loss"], metrics)


def _failure(error: BaseException) -> tuple[Status, str]:
    """Return how a training that raised `error` has ended, and the error in one line."""
    if isinstance(error, Preempted):
        return Status.PREEMPTED, error.reason
    is_asked_for = isinstance(error, KeyboardInterrupt | SystemExit)
    return Status.INTERRUPTED if is_asked_for else Status.FAILED, describe(error)
