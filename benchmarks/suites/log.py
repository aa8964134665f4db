"""What a log line costs the loop, with no, one or eleven trackers whose services are healthy, slow or dead.

On a step that does hardly anything, microseconds per step with a log line at every step, less those of the same
library without trackers and with hardly any log lines, round by round. "quiet again" is a second training of that
kind, so it is what can't be told from 0. A log line is more than its journey to trackers: its values are fetched,
and it is written to a terminal; the bare loop's row says what that alone costs, "silent" what is left where nothing
is written.

Before the clocks are read, Loopwright's trackers are open, or have failed to: see `implementations/loopwright.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

from rich.console import RenderableType

from benchmarks.rounds import Round, alternate, spread_of_differences
from benchmarks.settings import DEAD, HEALTHY, SLOW, SLOW_SECONDS, Options, Setting
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "microseconds that a log line adds to a step, with trackers healthy, slow and dead"

_NUM_ROUNDS = {False: 5, True: 11}
_STEPS_PER_SECOND = 1500
_NUM_WARMUP_STEPS = 30
# Where each step is made to wait, by 50 ms or 550.
_NUM_WAITING_STEPS = 3

_LINES_PER_SECOND = {False: 3_000, True: 30_000}
_TRACKERS_IN_TAIL = 11
_MEGABYTES_SAVED = 60.0

_QUIET = Setting("tiny", log_every=100_000, bar=False)
_LOUD = replace(_QUIET, log_every=1)
_SHARED_CASES = {"quiet": _QUIET, "quiet again": _QUIET, "no tracker": _LOUD}
_SILENT = {"no tracker, silent": replace(_LOUD, silent=True)}
_DELIVERED = {
    f"{number} {service}": replace(_LOUD, trackers=number, service=service)
    for number, service in product((1, 11), (HEALTHY, SLOW, DEAD))
}
_IN_PROCESS = {
    f"1 {service}, in process": replace(_LOUD, trackers=1, service=service, in_process=True)
    for service in (HEALTHY, SLOW)
}
_OWN_CASES = {
    "loopwright": _SILENT | _DELIVERED | _IN_PROCESS,
    "transformers": _SILENT | {name: setting for name, setting in _DELIVERED.items() if setting.service == SLOW},
}
_CLOCKS = {"wall_ms": "wall", "cpu_ms": "CPU", "thread_ms": "CPU, loop's thread"}
_CAPTION = (
    'Median [quartiles], over "quiet": the same library, no trackers, hardly a log line; "quiet again" is the noise. '
    "CPU is the training process's: Loopwright's delivery process is not in it, and takes part of the wall clock where "
    "cores are scarce. Every line is also written to a terminal, but for silent. slow: 50 ms a call. dead: connections "
    "are refused. in process: Loopwright's tracker on a thread of the training's process. Trackers of transformers are "
    "callbacks whose on_log sleeps 50 ms; those of Lightning and Ignite are left out, whose log lines go to the "
    "terminal alone, as do the bare loop's and accelerate's."
)


def cases_of(implementation: str) -> dict[str, Setting]:
    """Return the cases by name: those that all have, and its own."""
    return _SHARED_CASES | _OWN_CASES.get(implementation, {})


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every implementation; a log line is what all have."""
    num_rounds = options.num_rounds or _NUM_ROUNDS[options.full]
    num_steps = max(20, int(_STEPS_PER_SECOND * options.round_seconds))
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker()) for name in options.implementations}
        entries = {
            f"{name}: {case}": partial(_ask, worker, name, setting, num_steps)
            for name, worker in workers.items()
            for case, setting in cases_of(name).items()
        }
        say("loading the libraries")
        for name, worker in workers.items():
            alternate({name: partial(_ask, worker, name, _LOUD, 20)}, 1)
        say(f"{len(entries)} cases, {num_rounds} rounds of {num_steps} steps")
        measured = alternate(entries, num_rounds)
    num_lines = max(20, int(_LINES_PER_SECOND[options.full] * options.round_seconds))
    with Worker() as worker:
        say(f"the tail: {num_lines} lines, with saves beside them")
        tails = worker.ask(
            "benchmarks.log_tails:time_log_lines",
            num_steps=num_lines,
            num_trackers=_TRACKERS_IN_TAIL,
            megabytes=_MEGABYTES_SAVED,
        )
    return {
        "tails": tails,
        "num_steps": num_steps,
        "num_rounds": num_rounds,
        "added_us": {name: _added(name, measured.rounds) for name in workers},
        "rounds": measured.rounds,
        "failed": measured.failed,
    }


def _ask(worker: Worker, name: str, setting: Setting, num_steps: int) -> Round:
    waits = _waiting_seconds(name, setting) > 0
    answer: Round = worker.ask(
        "benchmarks.training:timed_training",
        implementation=name,
        setting=asdict(setting),
        num_steps=_NUM_WAITING_STEPS if waits else num_steps,
        num_warmup_steps=1 if waits else _NUM_WARMUP_STEPS,
    )
    return answer


def _waiting_seconds(name: str, setting: Setting) -> float:
    """Return how long a slow service holds each step up."""
    is_called_by_the_loop = name != "loopwright" and setting.service == SLOW
    return SLOW_SECONDS * setting.trackers if is_called_by_the_loop else 0.0


def _added(name: str, rounds: Mapping[str, list[Round]]) -> dict[str, dict[str, Any]]:
    """Return, by case and clock, the microseconds added to a step."""
    quiet = rounds.get(f"{name}: quiet")
    if not quiet:
        return {}
    return {
        case: {clock: _difference(found, quiet, clock) for clock in _CLOCKS}
        for case in cases_of(name)
        if case != "quiet" and (found := rounds.get(f"{name}: {case}"))
    }


def _difference(found: list[Round], quiet: list[Round], clock: str) -> dict[str, float]:
    return spread_of_differences([one[clock] * 1e3 for one in found], [one[clock] * 1e3 for one in quiet])


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table."""
    rows = [
        [f"{name}: {case}", *(with_quartiles(added[clock], 0, signed=True) for clock in _CLOCKS)]
        for name, cases in results["added_us"].items()
        for case, added in cases.items()
    ]
    yield make_table(
        f"µs that a log line adds to a step ({results['num_rounds']} rounds of {results['num_steps']} steps)",
        ("log line at every step, trackers", *_CLOCKS.values()),
        rows,
        caption=_CAPTION,
    )
    yield make_table(
        f"µs that Trainer.log takes, {_TRACKERS_IN_TAIL} dead trackers, not shown",
        ("lines", "number", "median", "99 %", "99.9 %"),
        [
            [name, str(found["num_lines"]), *(f"{found[key]:.0f}" for key in ("median_us", "p99_us", "p999_us"))]
            for name, found in results["tails"].items()
        ],
        caption=f"By the clock, in one training; beside a save: while {_MEGABYTES_SAVED:.0f} MB are being written.",
    )
    yield from failure_lines(results["failed"])
