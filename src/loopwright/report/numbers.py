"""Make series, the best metric and the costs from a run's records."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loopwright.records import Record
from loopwright.report.views import Best, CallbackCost, Costs, Series

_MAX_RATES = 200


def series_of(lines: Iterable[Record]) -> dict[str, Series]:
    """Return the numbers in log lines as series by name, in the order of their first values."""
    found: dict[str, tuple[list[int], list[float], list[float], list[int]]] = {}
    for line in lines:
        for name, value in line.values.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            steps, values, times, attempts = found.setdefault(name, ([], [], [], []))
            steps.append(line.step)
            values.append(_as_float(value))
            times.append(line.time)
            attempts.append(line.attempt)
    return {
        name: Series(name, tuple(steps), tuple(values), tuple(times), tuple(attempts))
        for name, (steps, values, times, attempts) in found.items()
    }


def throughput_of(losses: Series) -> Series:
    """Return steps per second between values of a series that one attempt logged: 200 of them at most.

    Evaluations and saves that came between count as well: it is how fast the training went, all in all.
    """
    every = -(-len(losses) // _MAX_RATES)  # a single step's time says more of the clock than of the training
    points = list(zip(losses.steps, losses.times, losses.attempts, strict=True))[::every]
    rates = [
        (now[0], (now[0] - before[0]) / (now[1] - before[1]), now[1], now[2])
        for before, now in itertools.pairwise(points)
        if now[2] == before[2] and now[0] > before[0] and now[1] > before[1]
    ]
    columns = zip(*rates, strict=True) if rates else ()
    return Series("steps_per_second", *(tuple(column) for column in columns))


def best_of(arguments: Mapping[str, Any], series: Mapping[str, Series]) -> Best | None:
    """Return the best value of `metric_for_best_model`, or of the evaluations' loss where none is named."""
    named = arguments.get("metric_for_best_model")
    if named is None:
        name, is_highest = "eval_loss", False
    else:
        name = str(named) if str(named).startswith("eval_") else f"eval_{named}"
        is_highest = bool(arguments.get("greater_is_better"))
    measured = series.get(name)
    if measured is None:
        return None
    finite = [
        (value, step) for value, step in zip(measured.values, measured.steps, strict=True) if math.isfinite(value)
    ]
    if not finite:
        return None
    choose = max if is_highest else min
    value, step = choose(finite, key=lambda pair: pair[0])
    return Best(name, value, step, is_highest)


def costs_of(records: Sequence[Record]) -> Costs | None:
    """Return what the newest record of each attempt says, added up; None where there is none."""
    newest = {record.attempt: record.values for record in records}
    if not newest:
        return None
    parts: dict[str, float] = {}
    spent: dict[tuple[str, str], list[float]] = {}
    total = 0.0
    for values in newest.values():
        total += _seconds(values.get("total"))
        for name, seconds in _mapping(values.get("parts")).items():
            parts[name] = parts.get(name, 0.0) + _seconds(seconds)
        for callback, events in _mapping(values.get("callbacks")).items():
            for event, cost in _mapping(events).items():
                calls_and_seconds = spent.setdefault((callback, event), [0, 0.0])
                calls_and_seconds[0] += _seconds(_mapping(cost).get("calls"))
                calls_and_seconds[1] += _seconds(_mapping(cost).get("seconds"))
    callbacks = [CallbackCost(*names, int(calls), seconds) for names, (calls, seconds) in spent.items()]
    return Costs(parts, total, tuple(sorted(callbacks, key=lambda cost: -cost.seconds)))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if value > 0 else -math.inf


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _seconds(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else 0.0
