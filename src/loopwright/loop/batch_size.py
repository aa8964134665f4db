"""Find the batch size that memory allows, for `auto_find_batch_size`.

    train with n ── out of memory in one of the first updates ── everything back to the beginning ── train with n // 2
                    (on any of the processes)                      (on all of them)

The search is over with the tenth update or the first checkpoint, whichever comes first: until then a copy of weights
and buffers is kept in the CPU's memory, and what an abandoned start has logged can be taken back. Later an error of
memory ends the run like any other. A resumed run has the size in `state.train_batch_size`, and doesn't search.
"""

from __future__ import annotations

import copy
import gc
import weakref
from typing import TYPE_CHECKING, Any

import torch

from loopwright._support.log import Logger, get_logger
from loopwright.callbacks.persistence import capture_states, restore_states
from loopwright.errors import ArgumentError, describe
from loopwright.loop.train import TrainingLoop
from loopwright.runtime.device import empty_cache
from loopwright.runtime.precision import choose_precision
from loopwright.runtime.randomness import capture_randomness, restore_randomness
from loopwright.runtime.wrapping import unwrap_model

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks

logger: Logger = get_logger(__name__)

_UPDATES = 10
# In what torch raises as a plain RuntimeError: its CPU allocator's words on Linux and on Windows, and a library's.
_MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "not enough memory", "out of memory")


class BatchSizeSearch:
    """Takes a training of `trainer` back to its beginning when a batch was too large; made before anything is begun.

    Raises:
        ArgumentError: its processes have been brought together by somebody else, who may hold their group.
    """

    def __init__(self, trainer: TrainingHooks) -> None:
        if trainer.ranks.are_many and not trainer.ranks.are_met_here:
            raise ArgumentError(
                "auto_find_batch_size=True in several processes: leave torch.distributed.init_process_group to the "
                "Trainer, which has to part the processes and bring them together again where memory runs out"
            )
        self.trainer = trainer
        self.loop: TrainingLoop | None = None
        self._mark: tuple[Any, ...] | None = None
        self._journal: dict[str, Any] | None = None
        self._randomness = capture_randomness()
        self._tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors_of(trainer)}
        self._callbacks = copy.deepcopy(capture_states(trainer.callback_handler.callbacks))
        # Those that the user made; the Trainer's own are made anew.
        self._made = {
            name: (part, copy.deepcopy(part.state_dict()))
            for name in ("optimizer", "lr_scheduler")
            if (part := getattr(trainer, name)) is not None
        }

    def watch(self, loop: TrainingLoop) -> None:
        """Take note of where `loop` begins, and let the copies go when the search is over."""
        self.loop, self._mark = loop, loop.saved_mark
        self._journal = self.trainer.reporting.whereabouts(syncs=False)

        def run_update() -> None:
            TrainingLoop.run_update(loop)
            if self.trainer.state.global_step >= _UPDATES or loop.saved_mark != self._mark:
                self.end()

        loop.run_update = run_update  # type: ignore[method-assign]  # taken off again: later updates pay nothing

    def end(self) -> None:
        """Stop searching."""
        self._leave_loop()
        self._tensors.clear()

    def why_go_back(self, error: BaseException) -> str | None:
        """Return why the training can begin again: a batch was too large, on any process; None where it can't.

        Raises:
            ArgumentError: batches can't be smaller.
        """
        loop = self.loop
        if loop is None or loop.saved_mark != self._mark:
            return None
        is_inside = loop.update is not None and not loop.is_acting
        own = describe(error) if is_inside and is_out_of_memory(error) else None
        reason = self.trainer.ranks.why_begin_anew(error, own)
        if reason is not None and self.trainer._train_batch_size <= 1:
            raise ArgumentError(
                f"auto_find_batch_size=True: not even batches of 1 fit into memory: {reason}"
            ) from error
        return reason

    def go_back(self, reason: str) -> None:
        """Halve the batch size, and put everything back to where it was."""
        trainer, loop = self.trainer, self.loop
        size = trainer._train_batch_size
        trainer._train_batch_size = size // 2
        if trainer.ranks.is_first:
            logger.warning("out of memory with batches of %d: beginning again with %d (%s)", size, size // 2, reason)
        if loop is not None:
            loop.feed.close(at_once=True)
        self._leave_loop()
        trainer.training_loop = None
        trainer.saving.end()
        trainer.reporting.take_back(f"out of memory with batches of {size}", self._journal)
        trainer.precision = choose_precision(trainer.args, trainer.args.device)
        for name in ("optimizer", "lr_scheduler"):
            setattr(trainer, name, self._as_made(name))
        trainer.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in _tensors_of(trainer):
                if name in self._tensors:
                    tensor.copy_(self._tensors[name])
        restore_states(trainer.callback_handler.callbacks, copy.deepcopy(self._callbacks), self._callbacks)
        self._part()
        empty_cache(trainer.args.device)
        trainer.ranks.meet_again()
        restore_randomness(self._randomness)

    def _part(self) -> None:
        """Let go of all that holds the failed update's memory, and the group of processes.

        Raises:
            ArgumentError: others hold on to it, so that the other processes would never hear of it.
        """
        trainer = self.trainer
        wrapped = weakref.ref(trainer.model_wrapped)
        trainer.model_wrapped = trainer.model
        gc.collect()
        if trainer.ranks.are_many and wrapped() not in (None, trainer.model):
            raise ArgumentError(
                "auto_find_batch_size=True: something outside the Trainer still holds its wrapped model, of the start "
                "that ran out of memory (a callback, say), so its processes can't part and begin again"
            )

    def _leave_loop(self) -> None:
        if self.loop is not None:
            del self.loop.run_update
            self.loop = None

    def _as_made(self, name: str) -> Any:
        if name not in self._made:
            return None
        part, state = self._made[name]
        if name == "optimizer":
            part.state.clear()
        part.load_state_dict(copy.deepcopy(state))
        return part


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch raised `error` because memory didn't suffice, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MESSAGES)


def check_size_is_used(loader: Any, size: int, given: int) -> None:
    """Refuse a loader that doesn't follow the batch size that was found.

    Raises:
        ArgumentError: naming what to do.
    """
    if size != given and getattr(loader, "batch_size", size) not in (None, size):
        raise ArgumentError(
            f"auto_find_batch_size=True: get_train_dataloader() gives batches of {loader.batch_size} where {size} are "
            "to be tried; let it take self._train_batch_size"
        )


def _tensors_of(trainer: TrainingHooks) -> list[tuple[str, torch.Tensor]]:
    model = unwrap_model(trainer.model)
    return [*model.named_parameters(), *model.named_buffers()]
