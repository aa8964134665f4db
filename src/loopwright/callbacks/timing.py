"""Save by the clock, and stop before a time budget is used up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from loopwright.callbacks.base import TrainerCallback
from loopwright.state import ExportableState

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState


class TimedSaveCallback(TrainerCallback):
    """Asks for a checkpoint when so much time has passed since the last one; `save_every_minutes` adds it.

    Arguments:
        minutes: From one checkpoint to the next, at least.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._last = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint where it is time."""
        now = time.monotonic()
        if now - self._last >= 60 * self.minutes:
            control.should_save = True
            self._last = now  # written beside the training, it is reported only later

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clock again, whoever asked for the checkpoint."""
        self._last = time.monotonic()


class TimeBudgetCallback(TrainerCallback, ExportableState):
    """Saves and stops before training has taken so many hours; `max_hours` adds it.

    Counted from the beginning of training, the time up to the checkpoint of earlier attempts included. The longest
    time from one step's end to the next so far, evaluations and saves included, is left for the step that comes and
    the last save.

    Arguments:
        hours: The budget.
    """

    def __init__(self, hours: float) -> None:
        self.hours = hours
        self.seconds_used: float = 0.0
        self._longest = 0.0
        self._now = time.monotonic()
        self._steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed run goes on counting, a new one from zero."""
        if state.global_step == 0:
            self.seconds_used = 0.0
        self._longest, self._steps = 0.0, 0
        self._now = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop where the next step might not end in time."""
        now = time.monotonic()
        gap, self._now = now - self._now, now
        self.seconds_used += gap
        if self._steps:  # the first step also compiles, and fills caches
            self._longest = max(self._longest, gap)
        self._steps += 1
        if self.seconds_used + 2 * self._longest >= 3600 * self.hours:
            control.should_training_stop = True
            control.should_save = control.should_save or args.save_strategy != "no"

    def state(self) -> dict[str, Any]:
        """Return the budget and what of it is used."""
        return {"args": {"hours": self.hours}, "attributes": {"seconds_used": self.seconds_used}}


def timing_callbacks(args: TrainingArguments) -> list[TrainerCallback]:
    """Return the callbacks that `save_every_minutes` and `max_hours` ask for."""
    callbacks: list[TrainerCallback] = []
    if args.save_every_minutes is not None:
        callbacks.append(TimedSaveCallback(args.save_every_minutes))
    if args.max_hours is not None:
        callbacks.append(TimeBudgetCallback(args.max_hours))
    return callbacks
