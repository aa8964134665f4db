"""Compare what a resumed run says again with what was recorded before the interruption.

    resumed at position p ──▶ records after p are awaited
    the same again            the old record stands, with its own time: no tracker has to do anything
    something else            all that is awaited still is dropped, a rewind is recorded, the new record follows

Keys that tell of the machine rather than of the training are left out of the comparison: run times, rates, memory,
and keys that callbacks added.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from loopwright.records import Kind

_VOLATILE_ENDINGS = ("_runtime", "_per_second", "_time", "_seconds")
# When the clock or a signal asks for a checkpoint, another run has none there.
_AT_ANY_TIME = frozenset({Kind.DECISION, Kind.CHECKPOINT})
_VOLATILE_PARTS = ("memory", "_mem_", "wall_time")
# Relative difference up to which a value counts as the same but for the order of additions.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Awaited:
    """A record that the resumed run should make again."""

    sequence: int
    kind: str
    step: int
    values: dict[str, Any]
    added: frozenset[str]
    tracker: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What a repeated record says that the recorded one doesn't.

    Attributes:
        step: Where the two part.
        text: In words.
        is_small: Whether rounding explains it.
    """

    step: int
    text: str
    is_small: bool


class Repetition:
    """The records that are awaited, in their order.

    Arguments:
        awaited: Those after the position that the run was resumed at.
        first_step: The step it goes on from. What was recorded there, after the checkpoint, may be what ended the run:
            its closing metrics, an evaluation. That stands whether it comes again or not.

    Records of a kind come in order. Those at the first step, decisions and checkpoints are looked for among all of
    their step: one that does not come says nothing about those that do.
    """

    def __init__(self, awaited: Iterable[Awaited] = (), first_step: int = -1) -> None:
        self._first_step = first_step
        self._in_any_order: list[Awaited] = []
        self._by_stream: dict[tuple[str, str | None], deque[Awaited]] = {}
        for record in awaited:
            if record.step <= first_step or record.kind in _AT_ANY_TIME:
                self._in_any_order.append(record)
            else:
                self._by_stream.setdefault((record.kind, record.tracker), deque()).append(record)

    def __bool__(self) -> bool:
        return bool(self._by_stream or self._in_any_order)

    def take(
        self, kind: str, step: int, values: Mapping[str, Any], added: frozenset[str], tracker: str | None
    ) -> int | Difference | None:
        """Compare a new record, its values as they are read back, with the one that is due.

        Returns:
            The number of the record that says the same; what is different; None where none is due.
        """
        if step <= self._first_step or kind in _AT_ANY_TIME:
            return self._take_in_any_order(kind, step, values, added, tracker)
        stream = self._by_stream.get((kind, tracker))
        if not stream:
            return None
        due = stream[0]
        if due.step > step:
            return Difference(step, f"something was recorded at step {step} that was not before", is_small=False)
        if due.step < step:
            return Difference(due.step, f"what was recorded at step {due.step} did not come again", is_small=False)
        found = _compare(step, due.values, values, due.added | added)
        if found is not None:
            return found
        stream.popleft()
        if not stream:
            del self._by_stream[(kind, tracker)]
        return due.sequence

    def _take_in_any_order(
        self, kind: str, step: int, values: Mapping[str, Any], added: frozenset[str], tracker: str | None
    ) -> int | Difference | None:
        alike = [due for due in self._in_any_order if (due.kind, due.step, due.tracker) == (kind, step, tracker)]
        alike = [due for due in alike if _steady(due.values, due.added).keys() == _steady(values, added).keys()]
        for due in alike:
            if _compare(step, due.values, values, due.added | added) is None:
                self._in_any_order.remove(due)
                return due.sequence
        if not alike:
            return None
        self._in_any_order.remove(alike[0])
        self._by_stream.setdefault((kind, tracker), deque()).appendleft(alike[0])  # to be given up with the others
        return _compare(step, alike[0].values, values, alike[0].added | added)

    def sequences(self) -> list[int]:
        """Return the numbers of what is awaited still, in order."""
        streams = [self._in_any_order, *self._by_stream.values()]
        return sorted(record.sequence for stream in streams for record in stream)

    def give_up(self) -> list[Awaited]:
        """Return what is awaited still, and await nothing more; what was recorded at the first step stands."""
        later = [record for record in self._in_any_order if record.step > self._first_step]
        given_up = [*later, *(record for stream in self._by_stream.values() for record in stream)]
        self._in_any_order = [record for record in self._in_any_order if record.step <= self._first_step]
        self._by_stream.clear()
        return sorted(given_up, key=lambda record: record.sequence)


def is_volatile(key: str) -> bool:
    """Return whether the value of `key` may differ between two runs of the same training."""
    return key.endswith(_VOLATILE_ENDINGS) or any(part in key for part in _VOLATILE_PARTS)


def rewinds_to(dropped: Iterable[Awaited]) -> int | None:
    """Return the step from which trackers have shown what no longer counts; None where they have shown nothing."""
    shown = {Kind.LOG, Kind.PREDICTION}
    return min((record.step for record in dropped if record.kind in shown), default=None)


def _compare(step: int, before: Mapping[str, Any], now: Mapping[str, Any], added: frozenset[str]) -> Difference | None:
    steady_before, steady_now = _steady(before, added), _steady(now, added)
    parts, is_small = [], True
    for key in [*steady_now, *(key for key in steady_before if key not in steady_now)]:
        old, new = steady_before.get(key), steady_now.get(key)
        if not _is_same(old, new):
            parts.append(f"{key} {new!r} was {old!r}")
            is_small = is_small and _is_close(old, new)
    return Difference(step, ", ".join(parts), is_small) if parts else None


def _steady(values: Mapping[str, Any], added: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in added and not is_volatile(key)}


def _is_same(old: Any, new: Any) -> bool:
    return bool(old == new) or repr(old) == repr(new)  # which is how a NaN is itself, in a list too


def _is_close(old: Any, new: Any) -> bool:
    # Whole numbers count something: no rounding changes them.
    return isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=TOLERANCE)
