"""How long a save holds the training up, at once and beside it, next to torch.save and to a copy in memory.

Every training is in a process of its own, begun anew in each round: memory that the system has handed out before is
five times faster, so "first" would mean nothing in a process that has saved already. How a save is timed:
`save_clock.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from statistics import median
from typing import Any

from rich.console import RenderableType

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.rounds import Measured, Round, alternate, spread, spread_of_ratios
from benchmarks.settings import Options
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "seconds that a save holds the training up, at once and beside it"

# Megabytes of state, by name, and rounds: each writes it some twenty times.
_SIZES = {"0.2 GB": (200.0, 5), "1 GB": (1000.0, 3)}
_STANDARD_SIZES = ("0.2 GB",)
_NUM_SAVES = 3

_COPY, _SYNCED, _OWN, _NO_DIGESTS, _ASYNC = (
    "copy",
    "torch.save, synced",
    "loopwright",
    "loopwright, no digests",
    "loopwright, async",
)
_WAYS = (_COPY, "torch.save", _SYNCED, _OWN, _NO_DIGESTS, _ASYNC)
# The first two are torch's own, and need no package.
_PEERS = ("dcp, async", "dcp, async, stager kept", "transformers")
# Whose checkpoint is on the disk when they say so.
_DURABLE = (_SYNCED, _OWN, _NO_DIGESTS, _ASYNC, "dcp, async", "dcp, async, stager kept")
# (what, way, its saves, way that it is compared with, at most)
_GOALS = (
    ("a save at once, over torch.save and one fsync", _OWN, "later", _SYNCED, 1.1),
    ("a later save beside the training, over the copy", _ASYNC, "later", _COPY, 1.15),
    ("the first save beside the training, over the copy", _ASYNC, "first", _COPY, 1.15),
    ("without digests, over a save at once", _NO_DIGESTS, "later", _OWN, None),
)
_CAPTION = (
    "A training on one thread, its model a third of the state and fused AdamW's moments the rest, saved three times "
    "with six quiet steps before each save, in a new process per round. held up: seconds between the end of the saved "
    "step and the begin of the next, and where on_save comes later also around that, less those of quiet steps; first "
    "save, and median of the later ones; median [quartiles] of the rounds. durable: until on_save, where that says "
    "that the data is on the disk; a save beside the training is told of at the next step's end. lost in all: how much "
    "later the training was once the checkpoint was durable, so slower steps meanwhile count too. step: a quiet one. "
    "copy: the same tensors copied in memory, the first time into new memory, then over the copy before. torch.save: "
    "model and optimizer in one file; synced: and one fsync. no digests: Loopwright with its hash replaced by nothing, "
    "in a process of its own. dcp: torch.distributed.checkpoint.async_save, gloo, one process. transformers doesn't "
    "sync."
)


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure at 0.2 GB, and at 1 GB if all is asked for."""
    ways = list(_WAYS)
    if any(IMPLEMENTATIONS[name].is_peer for name in options.implementations):
        ways += [way for way in _PEERS if way not in IMPLEMENTATIONS or way in options.implementations]
    sizes = {}
    for name in _SIZES if options.full else _STANDARD_SIZES:
        megabytes, num_rounds = _SIZES[name]
        num_rounds = options.num_rounds or num_rounds
        megabytes *= options.round_seconds
        say(f"{name}: {len(ways)} ways, {num_rounds} rounds of {_NUM_SAVES} saves of {megabytes:.0f} MB")
        sizes[name] = _measure(ways, megabytes, num_rounds)
    return {"sizes": sizes, "num_saves": _NUM_SAVES, "directory": tempfile.gettempdir()}


def _measure(ways: Iterable[str], megabytes: float, num_rounds: int) -> dict[str, Any]:
    measured = alternate({way: partial(_ask, way, megabytes) for way in ways}, num_rounds)
    rounds = [one for found in measured.rounds.values() for one in found]
    return {
        "megabytes": rounds[0]["megabytes"] if rounds else megabytes,
        "num_rounds": num_rounds,
        "rows": {way: _summarize(found) for way, found in measured.rounds.items()},
        "goals": _compare(measured),
        "failed": measured.failed,
    }


def _ask(way: str, megabytes: float) -> Round:
    with Worker() as worker:
        answer: Round = worker.ask("benchmarks.saving:time_saves", way=way, megabytes=megabytes, num_saves=_NUM_SAVES)
    return answer


def _summarize(rounds: list[Round]) -> dict[str, Any]:
    return {
        "first_s": spread(found["first"]["blocked_s"] for found in rounds),
        **{
            f"{name}_s": spread(found["later"][f"{name}_s"] for found in rounds)
            for name in ("blocked", "durable", "lost")
        },
        "step_s": median(found["step_s"] for found in rounds),
        "rounds": rounds,
    }


def _compare(measured: Measured) -> list[dict[str, Any]]:
    """Return the ratios, round by round, of those ways that were measured."""
    found = []
    for what, way, saves, other, limit in _GOALS:
        if way in measured.rounds and other in measured.rounds:
            values = [one[saves]["blocked_s"] for one in measured.rounds[way]]
            baseline = [one["later"]["blocked_s"] for one in measured.rounds[other]]
            found.append({"what": what, "ratio": spread_of_ratios(values, baseline), "limit": limit})
    return found


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return two tables per size: what each way costs, and how that compares with the goals."""
    for number, (name, size) in enumerate(results["sizes"].items(), 1):
        rounds = f"{size['num_rounds']} rounds of {results['num_saves']} saves"
        yield make_table(
            f"seconds of a save of {size['megabytes']:.0f} MB ({rounds}, in {results['directory']})",
            ("", "held up, first", "held up, later", "durable", "lost in all", "step"),
            [_cells(way, row) for way, row in size["rows"].items()],
            caption=_CAPTION if number == len(results["sizes"]) else None,
        )
        yield make_table(
            f"how long a save of {name} holds the training up, as ratios",
            ("", "ratio", "goal"),
            [
                [one["what"], with_quartiles(one["ratio"], 3), f"≤ {one['limit']}" if one["limit"] else "-"]
                for one in size["goals"]
            ],
            caption="Median [quartiles] of the ratios within each round; the copy and torch.save are their later ones.",
        )
        yield from failure_lines(size["failed"])


def _cells(way: str, row: Mapping[str, Any]) -> list[str]:
    return [
        way,
        with_quartiles(row["first_s"], 3),
        with_quartiles(row["blocked_s"], 3),
        f"{row['durable_s']['median']:.3f}" if way in _DURABLE else "-",
        with_quartiles(row["lost_s"], 3),
        f"{row['step_s']:.3f}",
    ]
