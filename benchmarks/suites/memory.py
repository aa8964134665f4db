"""What memory a training takes over the bare loop's, and whether it grows while it goes on.

Each round is a process of its own: what was once taken stays with a process. Delivery processes are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import RenderableType

from benchmarks.rounds import Round, alternate, spread
from benchmarks.settings import Options, Setting
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "memory of a training, and its growth"

_NUM_ROUNDS = 3
_SETTING = Setting("mlp1", log_every=10)
_FIRST_MARK = 1000  # what is taken for the first time is behind it
_NUM_STEPS = 10_000
_CAPTION = (
    "Megabytes that the process holds. import: the library's, over torch. training: at its height, over what was there "
    "before. growth: per 10,000 steps with a log line every 10, from step {first:,} to step {last:,}: a log history is "
    "some 400 bytes a line. Median [quartiles] of the rounds."
)


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Train with each, in new processes, round after round."""
    num_rounds = options.num_rounds or _NUM_ROUNDS
    first = max(20, int(_FIRST_MARK * min(1.0, options.round_seconds)))
    marks = [first, first + max(20, int(_NUM_STEPS * options.round_seconds))]
    say(f"{num_rounds} rounds of {marks[-1]:,} steps")
    entries = {name: partial(_train, name, marks) for name in options.implementations}
    measured = alternate(entries, num_rounds)
    return {
        "num_rounds": num_rounds,
        "marks": marks,
        "rows": {name: _summarize(rounds, marks) for name, rounds in measured.rounds.items()},
        "failed": measured.failed,
    }


def _train(name: str, marks: list[int]) -> Round:
    with Worker() as worker:
        found: Round = worker.ask(
            "benchmarks.training:memory_of_training", implementation=name, setting=asdict(_SETTING), marks=marks
        )
    return found


def _summarize(rounds: list[Round], marks: list[int]) -> dict[str, Any]:
    per_steps = 10_000 / (marks[1] - marks[0])
    return {
        "import_mb": spread(found["import_mb"] for found in rounds),
        "peak_mb": spread(found["peak_mb"] for found in rounds),
        "growth_mb": spread(found["growth_mb"] * per_steps for found in rounds),
        "rounds": rounds,
    }


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table."""
    first, last = results["marks"]
    yield make_table(
        f"memory of a training of {last:,} steps ({results['num_rounds']} rounds)",
        ("", "import, MB", "training, MB", "growth, MB"),
        [
            [
                name,
                with_quartiles(row["import_mb"], 0),
                with_quartiles(row["peak_mb"], 0),
                with_quartiles(row["growth_mb"], 2, signed=True),
            ]
            for name, row in results["rows"].items()
        ],
        caption=_CAPTION.format(first=first, last=last),
    )
    yield from failure_lines(results["failed"])
