"""What a library adds to a training step, as a ratio to the bare loop that does the same training.

The bare loop runs twice, in two processes: "bare again" over "bare" is what this machine can't tell from 1. Before
anything is timed, every implementation does a short training in sequential order, and its trained weights must give
the bare loop's loss: else it isn't the same training, and the table says so. That training also warms the process up.
How a step is timed: `training.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from rich.console import RenderableType

from benchmarks.implementations import BARE, IMPLEMENTATIONS
from benchmarks.rounds import Measured, alternate, spread, spread_of_differences, spread_of_ratios
from benchmarks.settings import Options, Setting
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker, WorkerError

ABOUT = "time of a training step over the bare loop's"

BARE_AGAIN = "bare again"
LOSS_TOLERANCE = 1e-5

_NUM_ROUNDS = 9
_CALIBRATION_STEPS = 100
_CHECK_STEPS = 20

_MLP = Setting("mlp1")
_GPT = Setting("gpt10")

STANDARD_CASES: dict[str, Setting] = {
    "mlp1, log 10": replace(_MLP, log_every=10),
    "gpt10, log 10": replace(_GPT, log_every=10),
    "mlp1": _MLP,
    "gpt10": _GPT,
    "mlp1, accumulation 4": replace(_MLP, accumulation=4),
    "mlp1, 50 callbacks": replace(_MLP, idle_callbacks=50),
}
ALL_CASES: dict[str, Setting] = {
    **STANDARD_CASES,
    "gpt30": Setting("gpt30"),
    "mlp1, log 1": replace(_MLP, log_every=1),
    "mlp1, no bar": replace(_MLP, bar=False),
    "mlp1, log 10, no bar": replace(_MLP, log_every=10, bar=False),
    "mlp1, log 1, no bar": replace(_MLP, log_every=1, bar=False),
    "mlp1, 10 callbacks": replace(_MLP, idle_callbacks=10),
    "gpt10, log 1": replace(_GPT, log_every=1),
    "gpt10, no bar": replace(_GPT, bar=False),
    "gpt10, accumulation 4": replace(_GPT, accumulation=4),
    "gpt10, 50 callbacks": replace(_GPT, idle_callbacks=50),
}


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the standard cases, all, or those named."""
    cases = ALL_CASES if options.full or options.cases else STANDARD_CASES
    if options.cases:
        cases = {name: setting for name, setting in cases.items() if name in options.cases}
    num_rounds = options.num_rounds or _NUM_ROUNDS
    entries = [BARE, BARE_AGAIN, *(name for name in options.implementations if name != BARE)]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker()) for name in entries}
        say("loading the libraries, and comparing what they train")
        checks, failed = _check_losses(workers, sorted({setting.workload for setting in cases.values()}))
        able = {name: worker for name, worker in workers.items() if name not in failed}
        results = {}
        for name, setting in cases.items():
            num_steps = _choose_num_steps(able[BARE], setting, options.round_seconds)
            say(f"{name}: {num_rounds} rounds of {num_steps} steps")
            results[name] = _measure(able, setting, num_steps, num_rounds)
    return {"cases": results, "final_losses": checks, "failed": failed}


def _implementation(entry: str) -> str:
    return BARE if entry == BARE_AGAIN else entry


def _check_losses(workers: Mapping[str, Worker], workloads: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the final loss of each worker and workload, and the reason of each worker that failed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(partial(_losses_of, workloads=workloads), workers, workers.values()))
    by_entry = dict(zip(workers, found, strict=True))
    losses = {name: loss for name, loss in by_entry.items() if not isinstance(loss, WorkerError)}
    failed = {name: loss.reason for name, loss in by_entry.items() if isinstance(loss, WorkerError)}
    if BARE in failed:
        raise RuntimeError(f"the bare loop failed: {failed[BARE]}")
    return losses, failed


def _losses_of(entry: str, worker: Worker, workloads: list[str]) -> dict[str, float] | WorkerError:
    try:
        return {
            workload: worker.ask(
                "benchmarks.training:final_loss",
                implementation=_implementation(entry),
                setting=asdict(Setting(workload, log_every=_CHECK_STEPS, shuffle=False)),
                num_steps=_CHECK_STEPS,
            )
            for workload in workloads
        }
    except WorkerError as error:
        return error


def _choose_num_steps(worker: Worker, setting: Setting, seconds: float) -> int:
    """Return how many steps of the bare loop last about `seconds`, as whole turns of logging."""
    # Twice: the first is slower while the processor's caches and clock come up.
    for _ in range(2):
        timing = _ask(worker, BARE, setting, max(5, min(_CALIBRATION_STEPS, int(_CALIBRATION_STEPS * seconds))))
    turns = round(seconds * 1e3 / timing["wall_ms"] / setting.log_every)
    return max(1, turns) * setting.log_every


def _ask(worker: Worker, entry: str, setting: Setting, num_steps: int) -> dict[str, float]:
    answer: dict[str, float] = worker.ask(
        "benchmarks.training:timed_training",
        implementation=_implementation(entry),
        setting=asdict(setting),
        num_steps=num_steps,
    )
    return answer


def _measure(workers: Mapping[str, Worker], setting: Setting, num_steps: int, num_rounds: int) -> dict[str, Any]:
    entries = {
        name: partial(_ask, worker, name, setting, num_steps)
        for name, worker in workers.items()
        if IMPLEMENTATIONS[_implementation(name)].can(setting)
    }
    measured = alternate(entries, num_rounds)
    return {
        "setting": asdict(setting),
        "num_steps": num_steps,
        "num_rounds": num_rounds,
        "rows": _summarize(measured),
        "failed": measured.failed,
        "without_means": sorted(set(workers) - set(entries)),
    }


def _summarize(measured: Measured) -> dict[str, Any]:
    bare = {clock: [found[clock] for found in measured.rounds[BARE]] for clock in ("wall_ms", "cpu_ms")}
    rows = {}
    for name, rounds in measured.rounds.items():
        row: dict[str, Any] = {"rounds": rounds}
        for clock, baseline in bare.items():
            values = [found[clock] for found in rounds]
            row[clock] = spread(values)
            row[clock.replace("_ms", "_ratio")] = spread_of_ratios(values, baseline)
            row[clock.replace("_ms", "_added_ms")] = spread_of_differences(values, baseline)
        rows[name] = row
    return rows


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return a table per case."""
    columns = ("", "ms/step", "ratio", "CPU ms/step", "CPU ratio", "CPU added", "same loss")
    for name, case in results["cases"].items():
        losses = {entry: found[case["setting"]["workload"]] for entry, found in results["final_losses"].items()}
        rows = [_cells(entry, row, same_loss(losses[entry], losses[BARE])) for entry, row in case["rows"].items()]
        rows += [[entry, *["-"] * 6] for entry in case["without_means"]]
        yield make_table(
            f"{name} ({Setting(**case['setting'])}; {case['num_rounds']} rounds of {case['num_steps']} steps)",
            columns,
            rows,
            caption='Median [quartiles]. Ratios are to "bare", round by round; "bare again" is the noise.',
        )
        yield from failure_lines(case["failed"])
    yield from failure_lines(results["failed"])


def _cells(entry: str, row: Mapping[str, Any], agrees: bool) -> list[str]:
    added = {name: value * 1e3 for name, value in row["cpu_added_ms"].items()}
    return [
        entry,
        f"{row['wall_ms']['median']:.3f}",
        with_quartiles(row["wall_ratio"], 3),
        f"{row['cpu_ms']['median']:.3f}",
        with_quartiles(row["cpu_ratio"], 3),
        f"{added['median']:+.0f} µs",
        "yes" if agrees else "NO",
    ]


def same_loss(loss: float, expected: float) -> bool:
    """Return whether two implementations arrived at the same loss."""
    return math.isclose(loss, expected, rel_tol=LOSS_TOLERANCE)
