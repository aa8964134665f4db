"""What an evaluation with many predictions takes, in time and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import RenderableType

from benchmarks.rounds import Measured, Round, alternate, spread, spread_of_ratios
from benchmarks.settings import Options
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "time and peak memory of an evaluation of 200,000 x 100 logits with a metric"

_NUM_ROUNDS = 3
_NUM_ROWS = 200_000
_NUM_CLASSES = 100
# So many times the bare loop's seconds, an entry does one round.
_SLOW = 50
_IMPLEMENTATIONS = ("bare", "loopwright", "transformers", "lightning")
_MEGABYTES_PER_ROW = (4 * _NUM_CLASSES + 8) / 1e6  # logits in single precision, and a label
_CAPTION = (
    "evaluate() with compute_metrics (accuracy of all logits at once) and the loss, in batches of 8, on one layer of "
    "16 x 100, so that nearly all time is the library's. bare: a loop by hand into arrays that were made once. ratio: "
    "seconds over those of bare, within a round. memory: by how much the process grew at its height; of it over the "
    "predictions: what is more than logits and labels themselves. Median [quartiles] of the rounds; a process per row, "
    "which has evaluated once before, unless it takes more than 50 times as long as bare: then its one round counts. "
    "Losses and accuracies are compared. Goals: ratio 1.1, 30 MB over the predictions."
)


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Evaluate with each, round after round.

    Raises:
        RuntimeError: two of them found other metrics.
    """
    num_rounds = options.num_rounds or _NUM_ROUNDS
    num_rows = max(100, int(_NUM_ROWS * options.round_seconds))
    names = [name for name in _IMPLEMENTATIONS if name in {*options.implementations, "bare"}]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker()) for name in names}
        entries: dict[str, Callable[[], Round]] = {
            name: partial(worker.ask, "benchmarks.evaluating:evaluate_once", library=name, num_rows=num_rows)
            for name, worker in workers.items()
        }
        say(f"{num_rows:,} rows, {num_rounds} rounds, and one that is thrown away")
        first = alternate(entries, 1)
        slow = _slow(first)
        measured = alternate({name: entry for name, entry in entries.items() if name not in slow}, num_rounds)
    measured.rounds |= {name: first.rounds[name] for name in slow}
    measured.failed |= first.failed
    bare = measured.rounds["bare"]
    for name, rounds in measured.rounds.items():
        _compare(name, rounds, bare)
    return {
        "num_rounds": num_rounds,
        "num_rows": num_rows,
        "predictions_mb": num_rows * _MEGABYTES_PER_ROW,
        "rows": {name: _summarize(rounds, bare, num_rows) for name, rounds in measured.rounds.items()},
        "failed": measured.failed,
    }


def _slow(first: Measured) -> list[str]:
    """Return those whose first round says enough: what it lacks is nothing to what they take."""
    limit = _SLOW * first.rounds["bare"][0]["seconds"]
    return [name for name, rounds in first.rounds.items() if rounds[0]["seconds"] > limit]


def _compare(name: str, rounds: list[Round], bare: list[Round]) -> None:
    for found, expected in zip(rounds, bare, strict=False):
        for metric in ("loss", "accuracy"):
            if abs(found[metric] - expected[metric]) > 1e-4 * max(1.0, abs(expected[metric])):
                raise RuntimeError(f"{name} found {metric}={found[metric]}, and the bare loop {expected[metric]}")


def _summarize(rounds: list[Round], bare: list[Round], num_rows: int) -> dict[str, Any]:
    seconds, peaks = ([found[name] for found in rounds] for name in ("seconds", "peak_mb"))
    return {
        "seconds": spread(seconds),
        "ratio": spread_of_ratios(seconds, [found["seconds"] for found in bare[: len(rounds)]]),
        "peak_mb": spread(peaks),
        "over_predictions_mb": spread(peak - num_rows * _MEGABYTES_PER_ROW for peak in peaks),
        "rounds": rounds,
    }


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table."""
    yield make_table(
        f"evaluation of {results['num_rows']:,} x {_NUM_CLASSES} logits, {results['predictions_mb']:.1f} MB with their "
        f"labels ({results['num_rounds']} rounds)",
        ("", "seconds", "ratio", "memory, MB", "over the predictions"),
        [
            [
                name,
                with_quartiles(found["seconds"]),
                with_quartiles(found["ratio"]),
                with_quartiles(found["peak_mb"], 0),
                with_quartiles(found["over_predictions_mb"], 0, signed=True),
            ]
            for name, found in results["rows"].items()
        ],
        caption=_CAPTION,
    )
    yield from failure_lines(results["failed"])
