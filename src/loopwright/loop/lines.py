"""Make a training's log lines: at once, or when their numbers have arrived from the accelerator.

    at once (default)    the loop waits for the device; callbacks hear the line at its own step
    logging_async        the numbers are copied beside; the line is made at the end of a later step, under its own

A line that is on its way is waited for before an evaluation, a save and the training's end, so lines stay in order and
a checkpoint's log history is complete.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loopwright._support.log import get_logger
from loopwright.errors import describe

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks
    from loopwright.loop.report import Interval, LossWindow

logger = get_logger(__name__)


class Arrival:
    """Numbers on their way to the CPU's memory, without anybody waiting for them.

    Arguments:
        tensors: Zero- or one-dimensional, of one device; what the loop does to them later changes nothing here.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        device = tensors[0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        numbers = torch.cat([tensor.detach().reshape(-1).to(dtype) for tensor in tensors])
        self._event: torch.Event | None = None
        self._numbers = numbers
        if device.type != "cpu":
            self._numbers = torch.empty(numbers.shape, dtype=dtype, pin_memory=device.type != "mps")
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.Event(device)
            self._event.record()

    def is_there(self) -> bool:
        """Return whether `numbers` would not wait."""
        return self._event is None or self._event.query()

    def numbers(self) -> list[float]:
        """Return the tensors' values, one after the other; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        found: list[float] = self._numbers.tolist()
        return found


@dataclass(slots=True)
class _Line:
    """A line that is on its way, and where the training stood when it began that."""

    interval: Interval
    arrival: Arrival | None
    has_norm: bool
    learning_rate: float
    step: int
    epoch: float | None
    tokens: int


class LogLines:
    """The log lines of one `train()`.

    Arguments:
        trainer: Whose `log` is called, and whose state and optimizer are read.
        window: Sums up the losses.

    Attributes:
        last_step: The step of the newest line, or the one that training began at.
        grad_norm: Of the newest update, before clipping; None where nothing is clipped.
        learning_rate: That the newest update was made with.
    """

    def __init__(self, trainer: TrainingHooks, window: LossWindow) -> None:
        self.trainer = trainer
        self.window = window
        self.last_step = trainer.state.global_step
        self.grad_norm: Any = None
        self.learning_rate: float | None = None
        self.start_time = time.time()
        # Several processes make a line together, at the same step.
        self._is_async = trainer.args.logging_async and not trainer.ranks.are_many
        self._waiting: deque[_Line] = deque()

    def make(self) -> None:
        """Make the line of the steps since the last one, or send it on its way."""
        trainer, state = self.trainer, self.trainer.state
        rate = trainer.optimizer.param_groups[0]["lr"] if self.learning_rate is None else self.learning_rate
        self.last_step = state.global_step
        interval = self.window.begin_next()
        if self._is_async:
            self._waiting.append(self._depart(interval, rate))
            trainer.control.should_log = False
            return
        norm = None if self.grad_norm is None else float(self.grad_norm)
        self._log(interval, norm, rate)

    def make_arrived(self) -> None:
        """Make the lines whose numbers are there."""
        while self._waiting and _is_there(self._waiting[0]):
            self._arrive(self._waiting.popleft())

    def finish(self) -> None:
        """Make the lines that are still on their way; waits for their numbers."""
        while self._waiting:
            self._arrive(self._waiting.popleft())

    def finish_after(self, error: BaseException) -> None:
        """Make them where the training ends by `error`, which is what is to be seen."""
        try:
            self.finish()
        except Exception as another:
            lost = len(self._waiting) + 1
            logger.error("%d log lines are lost after %s: %s", lost, type(error).__name__, describe(another))
            self._waiting.clear()

    def _depart(self, interval: Interval, rate: float) -> _Line:
        state, norm = self.trainer.state, self.grad_norm
        tensors = [one for one in (interval.on_device, norm) if isinstance(one, torch.Tensor)]
        arrival = Arrival(tensors) if tensors else None
        has_norm = isinstance(norm, torch.Tensor)
        return _Line(interval, arrival, has_norm, rate, state.global_step, state.epoch, state.num_input_tokens_seen)

    def _arrive(self, line: _Line) -> None:
        numbers = [] if line.arrival is None else line.arrival.numbers()
        norm = numbers.pop() if line.has_norm else None
        if numbers:
            line.interval.settle(numbers)
        state = self.trainer.state
        now = state.global_step, state.epoch, state.num_input_tokens_seen
        # Whoever hears of the line sees the step that it is about.
        state.global_step, state.epoch, state.num_input_tokens_seen = line.step, line.epoch, line.tokens
        try:
            self._log(line.interval, norm, line.learning_rate)
        finally:
            state.global_step, state.epoch, state.num_input_tokens_seen = now

    def _log(self, interval: Interval, norm: float | None, rate: float) -> None:
        logs = self.window.take(interval)
        if norm is not None:
            logs["grad_norm"] = norm
        logs["learning_rate"] = rate
        self.trainer.log(logs, self.start_time)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, JSON-able and exact."""
        return {
            "loss_window": self.window.state(),
            "last_logged_step": self.last_step,
            "grad_norm": None if self.grad_norm is None else float(self.grad_norm),
            "learning_rate": self.learning_rate,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.window.load_state(state["loss_window"])
        self.last_step = state["last_logged_step"]
        self.grad_norm = state["grad_norm"]
        self.learning_rate = state["learning_rate"]


def _is_there(line: _Line) -> bool:
    return line.arrival is None or line.arrival.is_there()
