"""What callbacks cost: those that listen to nothing, those that count steps, and one event fired by hand.

In training: on a step that does hardly anything, CPU microseconds per step with the callbacks less those without,
round by round. "none again" is a second training without any, so it is what can't be told from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import RenderableType

from benchmarks.implementations import BARE, IMPLEMENTATIONS
from benchmarks.rounds import Round, alternate, spread_of_differences
from benchmarks.settings import Options, Setting
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "microseconds that callbacks add to a step, and of one event"

_NUM_ROUNDS = 9
_STEPS_PER_SECOND = 1000
_NONE = Setting("tiny", log_every=100_000, bar=False)
_CASES = {
    "none": _NONE,
    "none again": _NONE,
    "10 idle": Setting("tiny", log_every=100_000, bar=False, idle_callbacks=10),
    "50 idle": Setting("tiny", log_every=100_000, bar=False, idle_callbacks=50),
    "1 counting": Setting("tiny", log_every=100_000, bar=False, listening_callbacks=1),
    "10 counting": Setting("tiny", log_every=100_000, bar=False, listening_callbacks=10),
}
# Lightning's hooks can't be called without a Trainer in the middle of a fit.
_WITH_EVENTS = ("loopwright", "transformers", "ignite")


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every implementation that has callbacks."""
    num_rounds = options.num_rounds or _NUM_ROUNDS
    num_steps = max(20, int(_STEPS_PER_SECOND * options.round_seconds / 2))
    names = [
        name for name in options.implementations if name != BARE and IMPLEMENTATIONS[name].can(_CASES["1 counting"])
    ]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker()) for name in names}
        entries = {
            f"{name}: {case}": partial(_ask, worker, name, setting, num_steps)
            for name, worker in workers.items()
            for case, setting in _CASES.items()
            if IMPLEMENTATIONS[name].can(setting)
        }
        say(f"{len(entries)} cases, {num_rounds} rounds of {num_steps} steps")
        measured = alternate(entries, num_rounds)
        say("single events")
        events = alternate(_event_entries(workers, set(measured.failed), stack), max(3, num_rounds // 3))
    return {
        "num_steps": num_steps,
        "num_rounds": num_rounds,
        "added_us": {name: _added(name, measured.rounds) for name in names},
        "event_us": {name: min(found["us"] for found in rounds) for name, rounds in events.rounds.items()},
        "failed": {**measured.failed, **events.failed},
    }


def _ask(worker: Worker, name: str, setting: Setting, num_steps: int) -> Round:
    answer: Round = worker.ask(
        "benchmarks.training:timed_training", implementation=name, setting=asdict(setting), num_steps=num_steps
    )
    return answer


def _added(name: str, rounds: Mapping[str, list[Round]]) -> dict[str, Any]:
    found = {case: [one["cpu_ms"] * 1e3 for one in rounds.get(f"{name}: {case}", ())] for case in _CASES}
    if not found["none"]:
        return {}
    return {
        case: spread_of_differences(values, found["none"])
        for case, values in found.items()
        if values and case != "none"
    }


def _event_entries(workers: Mapping[str, Worker], failed: set[str], stack: ExitStack) -> dict[str, Any]:
    plain = stack.enter_context(Worker())
    entries = {"the call alone": partial(_event, plain, "benchmarks.events:plain_call")}
    for name in _WITH_EVENTS:
        if name in workers and f"{name}: none" not in failed:
            for listening, label in enumerate(("nobody listens", "one listens")):
                entries[f"{name}, {label}"] = partial(
                    _event,
                    workers[name],
                    "benchmarks.events:event_call",
                    implementation=name,
                    num_listening=listening,
                )
    return entries


def _event(worker: Worker, function: str, **arguments: Any) -> Round:
    return {"us": worker.ask(function, **arguments)}


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table of trainings and that of events."""
    yield make_table(
        f"CPU µs that callbacks add to a step ({results['num_rounds']} rounds of {results['num_steps']} steps)",
        ("", "callbacks", "all together", "each"),
        [_cells(name, case, spread) for name, added in results["added_us"].items() for case, spread in added.items()],
        caption='Median [quartiles]; "none again" is the noise. Ignite has no callbacks that listen to nothing.',
    )
    yield make_table(
        "one event", ("", "µs"), [[name, f"{microseconds:.2f}"] for name, microseconds in results["event_us"].items()]
    )
    yield from failure_lines(results["failed"])


def _cells(name: str, case: str, added: Mapping[str, float]) -> list[str]:
    setting = _CASES[case]
    number = setting.idle_callbacks + setting.listening_callbacks
    each = f"{added['median'] / number:+.2f}" if number else "-"
    return [name, case, with_quartiles(added, 1, signed=True), each]
