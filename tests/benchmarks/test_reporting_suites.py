"""That the suites of log lines and of the journal measure what their tables say."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from benchmarks import journal as records
from benchmarks import training
from benchmarks.implementations import BARE, IMPLEMENTATIONS, bare
from benchmarks.implementations import loopwright as own
from benchmarks.settings import DEAD, HEALTHY, SLOW, SLOW_SECONDS, Options, Setting
from benchmarks.slow_tracker import SlowTracker, refusing_port
from benchmarks.suites import SUITES, log
from loopwright.delivery.store import DeliveryStore
from loopwright.journal.reader import SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Record, Run, Status
from loopwright.trackers.placement import place
from loopwright.trackers.registry import make_tracker
from tests.benchmarks.rendering import printed

LOUD = Setting("tiny", log_every=1, bar=False)
RUN = Run(id="a" * 32, output_dir="out", created_at=1.0)


def run(suite: str, *, num_rounds: int) -> dict[str, Any]:
    """Run `suite` with next to nothing to do."""
    return SUITES[suite].run(Options(("loopwright",), num_rounds, round_seconds=0.01), lambda text: None)


# The suite of log lines


def test_log_suite_measures_its_cases_and_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("1 slow", "11 dead", "1 healthy, in process")
    own_cases = {name: case for name, case in log.cases_of("loopwright").items() if name in names}
    monkeypatch.setattr(log, "_OWN_CASES", {"loopwright": own_cases})
    results = run("log", num_rounds=1)
    assert results["failed"] == {}
    assert set(results["added_us"]["loopwright"]) == {"quiet again", "no tracker", *names}
    text = printed("log", results)
    assert all(f"loopwright: {name} " in text for name in names)
    assert "…" not in text


def test_cases_of_the_log_suite_are_those_that_each_implementation_can_do() -> None:
    for name, implementation in IMPLEMENTATIONS.items():
        assert all(implementation.can(setting) for setting in log.cases_of(name).values()), name
    services = [(setting.trackers, setting.service) for setting in log.cases_of("loopwright").values()]
    assert {(number, service) for number in (1, 11) for service in (HEALTHY, SLOW, DEAD)} <= set(services)


def test_widest_figures_fit_the_table() -> None:
    found = dict.fromkeys(("median", "q1", "q3"), 550_000.0)
    small = dict.fromkeys(("median", "q1", "q3"), 1000.0)
    cases = {name: {"wall_ms": found, "cpu_ms": small, "thread_ms": small} for name in log.cases_of("loopwright")}
    tails = {"beside a save": dict.fromkeys(("num_lines", "median_us", "p99_us", "p999_us"), 550_000)}
    results = {"num_rounds": 5, "num_steps": 1500, "added_us": {"loopwright": cases}, "tails": tails, "failed": {}}
    text = printed("log", results)
    assert "+550000 [+550000, +550000]" in text
    assert "…" not in text


def test_cpu_time_of_another_thread_is_not_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended = Event()

    def compute() -> None:
        while not has_ended.is_set():
            hashlib.sha256(bytes(1 << 20))  # which others need not wait for

    make_loader = bare.make_loader
    monkeypatch.setattr(bare, "make_loader", lambda job: (time.sleep(0.02) or batch for batch in make_loader(job)))
    thread = Thread(target=compute)
    thread.start()
    try:
        found = training.timed_training(BARE, asdict(Setting("tiny")), 2, num_warmup_steps=1)
    finally:
        has_ended.set()
        thread.join()
    assert found["thread_ms"] < found["cpu_ms"] / 2


# The tracker


def a_record() -> Record:
    return Record(1, 1, Kind.LOG, 1, 1.0, {"loss": 0.5})


def test_tracker_meets_the_service_that_it_was_told_of() -> None:
    SlowTracker(HEALTHY).write([a_record()])
    began = time.perf_counter()
    SlowTracker(SLOW).write([a_record()])
    assert time.perf_counter() - began >= SLOW_SECONDS
    with pytest.raises(ConnectionRefusedError):
        SlowTracker(DEAD, refusing_port()).setup(None, None, None)


def test_tracker_lives_where_it_was_told_to() -> None:
    assert place(SlowTracker()).place == "delivery"
    assert place(SlowTracker(in_process=True)).place == "training"
    given = SlowTracker(SLOW, 5)
    options = {"arguments": given.constructor_arguments()}
    made = make_tracker(SinkEntry(RUN.id, "slow", place(given).class_path, options, {}, "delivery", False))
    assert (made.service, made.port) == (SLOW, 5)


@pytest.mark.parametrize(
    ("service", "cursor", "error", "is_right"),
    [
        (HEALTHY, 1, None, True),
        (HEALTHY, 0, None, False),
        (HEALTHY, 1, "refused", False),
        (DEAD, 0, "refused", True),
        (DEAD, 0, None, False),
        (DEAD, 1, "refused", False),
    ],
)
def test_tracker_that_met_another_service_is_refused(
    tmp_path: Path, service: str, cursor: int, error: str | None, is_right: bool
) -> None:
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(RUN, purpose="training")
    recorder.add_sink(SinkEntry(RUN.id, "slow", "benchmarks.slow_tracker:SlowTracker", {}, {}, "delivery", False))
    recorder.record(Kind.LOG, 1, {"loss": 0.5})
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    store = DeliveryStore(tmp_path)
    store.move(RUN.id, "slow", cursor)
    if error is not None:
        store.note_failure(RUN.id, "slow", error)
    store.close()
    setting = replace(LOUD, trackers=1, service=service)
    if is_right:
        own.check_deliveries(tmp_path, setting)
        setting = replace(setting, trackers=2)  # of which one was left out
    with pytest.raises(RuntimeError, match="trackers ended as"):
        own.check_deliveries(tmp_path, setting)


# The suite of the journal


def test_journal_suite_measures_both_kinds_and_prints_them() -> None:
    results = run("journal", num_rounds=2)
    assert results["failed"] == {}
    assert results["num_records"] == 1000
    for name, row in results["rows"].items():
        assert len(row["rounds"]) == 2, name
        assert 0 < row["p50_us"]["median"] <= row["p99_us"]["median"] <= row["p999_us"]["max"] <= row["max_us"], name
    kinds = list(results["rows"])
    for name in kinds[:-1]:
        # Four numbers with all their digits, and their names.
        assert 100 < results["rows"][name]["bytes"] < 500, name
    assert results["rows"][kinds[-1]]["bytes"] is None
    text = printed("journal", results)
    assert all(text.count(name) == 2 for name in kinds)
    assert "…" not in text


def test_percentiles_and_ends_are_those_of_the_records() -> None:
    found = records._summarize([float(number) for number in range(1, 2001)])
    assert found["p50_us"] == pytest.approx(1000, abs=1)
    assert found["p99_us"] == pytest.approx(1980, abs=1)
    assert found["p999_us"] == pytest.approx(1998, abs=1)
    assert found["max_us"] == 2000
    assert found["begin_us"] == 260.5  # the 500 from the eleventh on
    assert found["end_us"] == 1750.5
