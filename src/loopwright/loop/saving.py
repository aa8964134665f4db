"""Save a training: at once, or in a thread beside it, and say so when the checkpoint is durable.

    at once     snapshot ── written ── recorded ── rotated ── on_save
    beside it   snapshot copied │ ── written in the thread ── │ at the next step: recorded ── on_save ── rotated there

At most one checkpoint is being written. What went wrong in the thread is raised at the next step.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger
from loopwright.checkpoint.buffers import Buffers
from loopwright.checkpoint.history import HistoryText
from loopwright.checkpoint.layout import checkpoint_dir
from loopwright.checkpoint.rotation import rotate
from loopwright.checkpoint.snapshot import Snapshot
from loopwright.checkpoint.together import write_together
from loopwright.checkpoint.writer import write_checkpoint
from loopwright.data.nesting import map_leaves
from loopwright.errors import CheckpointError, RankFailed
from loopwright.loop.persist import take_snapshot
from loopwright.runtime.dtensors import local_part, with_part
from loopwright.runtime.turns import short_turns
from loopwright.runtime.wrapping import is_sharded, unwrap_model

if TYPE_CHECKING:
    from torch import nn

    from loopwright.loop.hooks import TrainingHooks
    from loopwright.runtime.ranks import Ranks
    from loopwright.state import TrainerState

logger: Logger = get_logger(__name__)


@dataclasses.dataclass
class _Write:
    """A checkpoint that is being written beside the training: by the first process, or by all."""

    path: Path
    state: TrainerState
    future: Future[Path]
    best_before: str | None
    by_all: bool = False


class Saving:
    """Saves the training of `trainer`, as its arguments say.

    Attributes:
        is_idle: Whether there is nothing to see to at a step's end; False while a checkpoint is being written.
        history: Encodes the log history, knowing what it encoded for the saves before.
    """

    def __init__(self, trainer: TrainingHooks) -> None:
        self.trainer = trainer
        self.is_idle: bool = True
        self.history: HistoryText = HistoryText()
        self._thread: ThreadPoolExecutor | None = None
        self._buffers = Buffers()  # of what stays where it is from one save to the next
        self._small_buffers = Buffers()
        self._under_way: _Write | None = None
        self._tidying: Future[Any] | None = None
        self._ranks_beside: Ranks | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"trainer": self.trainer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["trainer"])  # type: ignore[misc]

    @property
    def is_writing(self) -> bool:
        """Whether this process is writing a checkpoint beside the training, at this moment."""
        return self._under_way is not None and not self._under_way.future.done()

    # Saving

    def save_and_tell(self, *, at_once: bool = False) -> None:
        """Save a checkpoint of this moment, and call `on_save` when it is durable.

        Arguments:
            at_once: Wait for it, whatever `save_async` says.

        Raises:
            CheckpointError: it could not be written, and `save_errors` is "raise".
        """
        trainer = self.trainer
        if at_once or not trainer.args.save_async:
            self.finish()
            self._save_and_tell_at_once()
        else:
            if self._may_begin():
                self._begin()
            trainer.control.should_save = False

    def _save_and_tell_at_once(self) -> None:
        trainer = self.trainer
        best_before = trainer.state.best_model_checkpoint
        try:
            trainer.save_checkpoint()
        except CheckpointError as error:
            trainer.control.should_save = False
            self._go_on_or_raise(error, best_before)
            return
        trainer.control = trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

    def save(self) -> Path:
        """Write a checkpoint of this moment, and return its path once it is durable."""
        trainer = self.trainer
        snapshot = take_snapshot(trainer, trainer.training_loop)
        path = self._write(snapshot) if snapshot.is_sharded else self._by_first(lambda: self._write(snapshot))
        self._mark_saved()
        if trainer.ranks.is_first:
            trainer.reporting.note_checkpoint(path)
            self._rotation(path)()
        return path

    def _write(self, snapshot: Snapshot) -> Path:
        output_dir = self.trainer.args.output_dir
        if snapshot.is_sharded:
            return write_together(snapshot, output_dir, self._group())
        return write_checkpoint(snapshot, output_dir)

    def _group(self) -> Ranks:
        """Return the processes, with a group for writing; all have to come here the first time."""
        if self._ranks_beside is None:
            self._ranks_beside = self.trainer.ranks.beside()
        return self._ranks_beside

    def _by_first(self, write: Callable[[], Path]) -> Path:
        """Let the first process write, and all know whether it could; return the path of the checkpoint.

        Raises:
            CheckpointError: it couldn't; on all processes.
        """
        try:
            path: Path = self.trainer.ranks.of_first(write)
        except RankFailed as error:
            raise CheckpointError(str(error)) from error
        return path

    def _mark_saved(self, *, is_saved: bool = True) -> None:
        if (loop := self.trainer.training_loop) is not None:
            loop.saved_mark = loop.mark() if is_saved else None

    def _go_on_or_raise(self, error: CheckpointError, best_before: str | None) -> None:
        state = self.trainer.state
        self._mark_saved(is_saved=False)
        if state.best_model_checkpoint is not None and not Path(state.best_model_checkpoint).is_dir():
            state.best_model_checkpoint = best_before
        if self.trainer.args.save_errors == "raise":
            raise error
        logger.error("NO CHECKPOINT: %s. Training goes on (save_errors='warn'); earlier checkpoints stand", error)

    def _rotation(self, written: Path) -> Callable[[], Any]:
        """Return what lets older checkpoints go, to be called here or in the thread."""
        trainer, args = self.trainer, self.trainer.args
        run_id, best = trainer.run_id, trainer.state.best_model_checkpoint
        return lambda: rotate(
            args.output_dir,
            limit=args.save_total_limit,
            run_id=run_id,
            best=best,
            keep=[written, *trainer.reporting.checkpoints_in_use()],
            top_k=args.save_top_k,
            greater_is_better=args.greater_is_better,
        )

    # Beside the training

    def _may_begin(self) -> bool:
        """Return whether a checkpoint may be begun now, waiting for the one before if need be."""
        state = self.trainer.state
        if self._under_way is None:
            return True
        is_wanted = state.global_step in (state.max_steps, state.best_global_step)
        skips = self.trainer.args.save_async_busy == "skip" and not is_wanted
        if skips and self.trainer.ranks.share(not self._under_way.future.done()):
            logger.warning("no checkpoint at step %d: %s is being written", state.global_step, self._under_way.path)
            return False
        self.finish()
        return True

    def _begin(self) -> None:
        trainer = self.trainer
        if self._tidying is not None:
            self._tidying.result()
        best_before = trainer.state.best_model_checkpoint
        taken = take_snapshot(trainer, trainer.training_loop, syncs_journal=False)
        path = checkpoint_dir(trainer.args.output_dir, taken.step)
        if not (trainer.ranks.is_first or taken.is_sharded):
            self._expect(_Write(path, copy_of(taken.trainer_state), _done(path), best_before))
            return
        snapshot = self._copied(taken)
        if snapshot.is_sharded:
            self._group()  # made here, where all are

        def write() -> Path:
            with short_turns():
                self._buffers.wait()
                self._small_buffers.wait()
                if trainer.ranks.is_first:
                    trainer.reporting.sync_beside()
                return self._write(snapshot)

        # Callbacks get the written state itself: they hear of it when nobody reads it any more.
        future = self._submit(write)
        self._expect(_Write(path, snapshot.trainer_state, future, best_before, by_all=snapshot.is_sharded))

    def _expect(self, write: _Write) -> None:
        self._under_way = write
        self._mark_saved()
        self.is_idle = False

    def _copied(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot that shares nothing with the training."""
        model_state = snapshot.model_state or _without_moving_parts(unwrap_model(self.trainer.model))
        lasting = {} if snapshot.is_copied else {"model_state": model_state, "optimizer": snapshot.optimizer}
        passing = {name: getattr(snapshot, name) for name in ("scheduler", "scaler", "randomness", "extra")}
        own_state = copy.deepcopy(snapshot.loopwright_state)
        copied = _copied_parts(self._buffers, lasting) if snapshot.is_sharded else self._buffers.copy(lasting)
        copied |= self._small_buffers.copy(passing)
        return dataclasses.replace(
            snapshot, trainer_state=copy_of(snapshot.trainer_state), loopwright_state=own_state, **copied
        )

    def fence(self) -> None:
        """Before the weights change: let that wait on the device until they have been copied."""
        if self._under_way is not None:
            self._buffers.fence()
            self._small_buffers.fence()

    def begin(self) -> None:
        """Training begins: where it will be saved beside it, get memory for the copies once there is state to copy."""
        self.is_idle = not self.trainer.args.save_async

    def settle(self, *, is_written: bool | None = None) -> None:
        """At a step's end: tell callbacks of a checkpoint that is durable by now, or raise what went wrong with it.

        Arguments:
            is_written: Whether it is, where several processes have agreed on that.

        Raises:
            CheckpointError: it could not be written, and `save_errors` is "raise".
        """
        if self._under_way is None:
            self._reserve()
        elif self._under_way.future.done() if is_written is None else is_written:
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any, and tell callbacks of it.

        Raises:
            CheckpointError: it could not be written, and `save_errors` is "raise".
        """
        write, self._under_way = self._under_way, None
        self.is_idle = True
        if write is None:
            return
        trainer = self.trainer
        future = write.future
        try:
            path = future.result() if write.by_all else self._by_first(future.result)
        except KeyboardInterrupt:
            self._under_way = write  # it is still being written, and will be waited for again
            raise
        except CheckpointError as error:
            self._go_on_or_raise(error, write.best_before)
            return
        trainer.reporting.note_checkpoint(path, step=write.state.global_step)
        asks_for_next = trainer.control.should_save  # by this very step; the event takes the flag down
        trainer.control = trainer.callback_handler.on_save(trainer.args, write.state, trainer.control)
        trainer.control.should_save |= asks_for_next
        if trainer.ranks.is_first:
            self._tidying = self._submit(self._rotation(path))

    def finish_alone(self) -> None:
        """After an exception: wait for the checkpoint that is being written, whatever has become of other processes."""
        if not self.trainer.ranks.are_many:
            self.finish()
            return
        write, self._under_way = self._under_way, None
        if write is not None:
            path = write.future.result()
            if self.trainer.ranks.is_first:
                self.trainer.reporting.note_checkpoint(path, step=write.state.global_step)

    def _reserve(self) -> None:
        is_in_parts = is_sharded(self.trainer.model_wrapped)
        if is_in_parts or not self.trainer.ranks.is_first:  # parts are small
            self.is_idle = True
            return
        optimizer = None if self.trainer.args.save_only_model else self.trainer.optimizer.state_dict()
        live = [unwrap_model(self.trainer.model).state_dict(), optimizer]
        self._tidying = self._submit(lambda: self._buffers.reserve(live))
        self.is_idle = True

    def end(self) -> None:
        """Wait for everything that the thread does, and end it; the buffers are given back."""
        try:
            self.finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True)
            self._thread, self._tidying = None, None
            self._buffers, self._small_buffers = Buffers(), Buffers()

    def _submit(self, work: Any) -> Future[Any]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="loopwright-save")
        return self._thread.submit(work)


def _done(path: Path) -> Future[Path]:
    """Return what stands for the first process's work on the others."""
    future: Future[Path] = Future()
    future.set_result(path)
    return future


def copy_of(state: TrainerState) -> TrainerState:
    """Return a copy of `state` that later steps don't change."""
    return dataclasses.replace(
        state,
        log_history=[dict(line) for line in state.log_history],
        stateful_callbacks=copy.deepcopy(state.stateful_callbacks),
    )


def _copied_parts(buffers: Buffers, nested: Any) -> Any:
    """Return a copy of `nested`, the buffers holding this process's part of each `DTensor`."""
    originals: list[Any] = []

    def part_of(value: Any) -> Any:
        originals.append(value)
        return local_part(value)

    copied = buffers.copy(map_leaves(nested, part_of))
    in_turn = iter(originals)
    return map_leaves(copied, lambda part: with_part(part, next(in_turn)))


def _without_moving_parts(model: nn.Module) -> dict[str, Any]:
    """Return the model's state dict; what the forward of the next step may change on a device is cloned there."""
    state = dict(model.state_dict())
    for name, buffer in model.named_buffers():
        if buffer.is_cuda and name in state:
            state[name] = buffer.detach().clone()
    return state
