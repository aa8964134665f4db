"""When a training is saved, and what that cost: `SaveClock` notes the time of everything, `summarize` works it out.

    begin ── step ── end ── gap ── begin ── step ── end ── gap, with a save in it ── begin ── ...

A save holds the loop up in the gap after its step, and in that in which it is told of where that comes later. Both are
taken less the gap of quiet steps: those with no save under way, nor one just before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

BEGIN, END, SAVE, DURABLE = "begin", "end", "save", "durable"

Event = tuple[str, float]


@dataclass
class SaveClock:
    """Says after which steps to save: some quiet ones after the checkpoint before is durable.

    Arguments:
        num_saves: How many there are to be.
        num_quiet_steps: Steps before each save, and after the last.

    Attributes:
        trace: What happened, and when.
    """

    num_saves: int
    num_quiet_steps: int = 6
    trace: list[Event] = field(default_factory=list)
    _num_begun: int = 0
    _num_quiet: int = 0
    _is_saving: bool = False
    _has_just_saved: bool = False

    @property
    def is_over(self) -> bool:
        """Whether everything was saved and measured."""
        return self._is_quiet() and self._num_begun == self.num_saves

    def step_begins(self) -> bool:
        """Note it, and return whether a checkpoint has become durable since the step before began."""
        self.trace.append((BEGIN, perf_counter()))
        has_just_saved, self._has_just_saved = self._has_just_saved, False
        return has_just_saved

    def step_ends(self) -> bool:
        """Note it, and return whether to save now."""
        if not self._is_saving:
            self._num_quiet += 1
        is_wanted = self._is_quiet() and self._num_begun < self.num_saves
        if is_wanted:
            self._num_begun += 1
            self._num_quiet = 0
            self._is_saving = True
        self.trace.append((SAVE if is_wanted else END, perf_counter()))
        return is_wanted

    def is_durable(self) -> None:
        """Note that the checkpoint is on the disk, or as far as it will be brought; any thread may call."""
        self.trace.append((DURABLE, perf_counter()))
        self._is_saving = False
        self._has_just_saved = True

    def _is_quiet(self) -> bool:
        return not self._is_saving and self._num_quiet >= self.num_quiet_steps


@dataclass
class _Step:
    """A step and the gap after it: when it began, ended, and the next began; and whether it was saved."""

    begin: float
    end: float
    next_begin: float
    is_saved: bool

    @property
    def gap(self) -> float:
        return self.next_begin - self.end


def summarize(trace: Sequence[Event]) -> dict[str, Any]:
    """Return what the saves in `trace` cost, in seconds.

    Returns:
        The whole of a quiet step ("step_s"), and of the first save and of the median one after it: how long the loop
        was held up ("blocked_s"), how long it took to become durable ("durable_s"), and how much later the training
        was in the end ("lost_s"), which counts steps too that were slower while the checkpoint was written.
    """
    steps, durable = _steps_in(trace), [when for what, when in trace if what == DURABLE]
    saved = [index for index, step in enumerate(steps) if step.is_saved]
    told = [next(index for index, step in enumerate(steps) if step.next_begin >= when) for when in durable]
    # The first step makes the optimizer's state; the one after a save finds the caches cold.
    disturbed = {0, 1, *(index for a, b in zip(saved, told, strict=True) for index in range(a, b + 2))}
    quiet = [step for index, step in enumerate(steps) if index not in disturbed]
    gap = median(step.gap for step in quiet)
    period = median(step.next_begin - step.begin for step in quiet)
    saves = [
        {
            "blocked_s": sum(steps[index].gap - gap for index in {begun, ended}),
            "durable_s": when - steps[begun].end,
            "lost_s": steps[ended].next_begin - steps[begun].end - gap - (ended - begun) * period,
        }
        for begun, ended, when in zip(saved, told, durable, strict=True)
    ]
    later = {name: median(one[name] for one in saves[1:] or saves) for name in saves[0]}
    return {"step_s": period, "first": saves[0], "later": later}


def _steps_in(trace: Sequence[Event]) -> list[_Step]:
    events = [event for event in trace if event[0] != DURABLE]
    whole = len(events) - len(events) % 2 - 2
    return [
        _Step(events[index][1], events[index + 1][1], events[index + 2][1], events[index + 1][0] == SAVE)
        for index in range(0, whole, 2)
    ]
