"""What a library adds to a training step of two processes, as a ratio to a loop around DistributedDataParallel.

Two processes on this machine, over gloo; each implementation has a pair of its own. As in `overhead`, the limit runs
twice: "bare ranks again" over "bare ranks" is what this machine can't tell from 1.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import RenderableType

from benchmarks.implementations import BARE_RANKS
from benchmarks.rounds import Round, alternate, spread, spread_of_ratios
from benchmarks.settings import Options, Setting
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "time of a training step of two processes over raw DistributedDataParallel's"

_NUM_ROUNDS = 9
_NUM_RANKS = 2
_AGAIN = f"{BARE_RANKS} again"
_ENTRIES = {BARE_RANKS: BARE_RANKS, _AGAIN: BARE_RANKS, "loopwright": "loopwright", "transformers": "transformers"}
_CASES = {
    f"{workload}, log 10": Setting(workload, log_every=10, ranks=_NUM_RANKS) for workload in ("mlp1", "gpt10", "gpt30")
}
_MS = {"mlp1": 2.0, "gpt10": 12.0, "gpt30": 35.0}


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure two processes of each implementation."""
    num_rounds = options.num_rounds or _NUM_ROUNDS
    entries = {name: used for name, used in _ENTRIES.items() if used in {*options.implementations, BARE_RANKS}}
    results = {}
    with ExitStack() as stack:
        pairs = {name: _pair(stack) for name in entries}
        for name, setting in _CASES.items():
            num_steps = max(10, int(options.round_seconds * 1e3 / _MS[setting.workload]))
            say(f"{name}: {num_rounds} rounds of {num_steps} steps")
            asked = {entry: partial(_ask, pairs[entry], used, setting, num_steps) for entry, used in entries.items()}
            alternate(asked, 1)
            measured = alternate(asked, num_rounds)
            bare = [found["wall_ms"] for found in measured.rounds[BARE_RANKS]]
            results[name] = {
                "num_steps": num_steps,
                "num_rounds": num_rounds,
                "rows": {
                    entry: {
                        "wall_ms": spread(found["wall_ms"] for found in rounds),
                        "wall_ratio": spread_of_ratios([found["wall_ms"] for found in rounds], bare),
                        "rounds": rounds,
                    }
                    for entry, rounds in measured.rounds.items()
                },
                "failed": measured.failed,
            }
    return {"cases": results}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _pair(stack: ExitStack) -> list[Worker]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(_NUM_RANKS)}
    return [
        stack.enter_context(Worker(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})) for rank in range(_NUM_RANKS)
    ]


def _ask(pair: list[Worker], implementation: str, setting: Setting, num_steps: int) -> Round:
    """Return the first process's clocks: the two wait for each other in every step."""

    def ask(worker: Worker) -> Round:
        answer: Round = worker.ask(
            "benchmarks.training:timed_training",
            implementation=implementation,
            setting=asdict(setting),
            num_steps=num_steps,
        )
        return answer

    with ThreadPoolExecutor(len(pair)) as pool:
        return next(iter(list(pool.map(ask, pair))))


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return a table per case."""
    for name, case in results["cases"].items():
        rows = [
            [entry, f"{row['wall_ms']['median']:.3f}", with_quartiles(row["wall_ratio"], 3)]
            for entry, row in case["rows"].items()
        ]
        yield make_table(
            f"{name}, {_NUM_RANKS} processes ({case['num_rounds']} rounds of {case['num_steps']} steps)",
            ("", "ms/step", "ratio"),
            rows,
            caption=f'Median [quartiles]. Ratios are to "{BARE_RANKS}", round by round; "{_AGAIN}" is the noise.',
        )
        yield from failure_lines(case["failed"])
