"""Alternating rounds, and the statistics that are made of them.

The machine may be shared and its speed wander, so nothing is timed en bloc: every entry does a short round, then all
do the next, the order turned round each time, and a ratio is taken within its round before the median is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from benchmarks.worker import WorkerError

Round = dict[str, Any]


@dataclass
class Measured:
    """The rounds of each entry, in the order of time, and why an entry has none."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def alternate(
    entries: Mapping[str, Callable[[], Round]], num_rounds: int, on_round: Callable[[], object] | None = None
) -> Measured:
    """Run each entry once per round; an entry that raises is out, and its reason kept.

    Arguments:
        entries: What to run, by name.
        num_rounds: How many times.
        on_round: Called after each entry's round.
    """
    measured = Measured({name: [] for name in entries})
    for number in range(num_rounds):
        for name in list(measured.rounds)[:: 1 if number % 2 == 0 else -1]:
            try:
                measured.rounds[name].append(entries[name]())
            except WorkerError as error:
                measured.failed[name] = error.reason
                del measured.rounds[name]
            if on_round is not None:
                on_round()
    return measured


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median of `values`, their quartiles and their extremes."""
    ordered = sorted(values)
    low, _, high = quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {"median": median(ordered), "q1": low, "q3": high, "min": ordered[0], "max": ordered[-1]}


def spread_of_ratios(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Return the spread of the ratios of `values` to `baseline`, round by round."""
    return spread(value / base for value, base in zip(values, baseline, strict=True))


def spread_of_differences(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Return the spread of `values` less `baseline`, round by round."""
    return spread(value - base for value, base in zip(values, baseline, strict=True))
