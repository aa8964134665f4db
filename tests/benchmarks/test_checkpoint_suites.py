"""That the suites of checkpoints and of resumes measure what their tables say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import resuming, saving
from benchmarks.save_clock import BEGIN, DURABLE, END, SAVE, SaveClock, summarize
from benchmarks.settings import Options
from benchmarks.suites import SUITES, checkpoint, resume
from benchmarks.worker import Worker, WorkerError
from tests.benchmarks.rendering import printed


def run(suite: str) -> dict[str, Any]:
    """Run `suite` with next to nothing to do."""
    return SUITES[suite].run(Options(("loopwright",), 1, round_seconds=0.005), lambda text: None)


# The clock of saves


def trace_of(*gaps: tuple[float, str], period: float = 1.0) -> list[tuple[str, float]]:
    """Return what a clock notes where steps of `period` are followed by `gaps`, of such a kind."""
    now, trace = 0.0, []
    for gap, kind in gaps:
        trace += [(BEGIN, now), (SAVE if "save" in kind else END, now + period)]
        now += period + gap
        if "durable" in kind:
            trace.append((DURABLE, now))
    return [*trace, (BEGIN, now), (END, now + period)]


QUIET = (0.1, "")


def test_save_at_once_costs_its_gap_over_a_quiet_one() -> None:
    trace = trace_of(*[QUIET] * 5, (3.1, "save, durable"), *[QUIET] * 5, (2.1, "save, durable"), *[QUIET] * 5)
    found = summarize(trace)
    assert found["step_s"] == pytest.approx(1.1)
    assert found["first"] == pytest.approx({"blocked_s": 3.0, "durable_s": 3.1, "lost_s": 3.0})
    assert found["later"] == pytest.approx({"blocked_s": 2.0, "durable_s": 2.1, "lost_s": 2.0})


def test_save_beside_the_training_costs_both_its_gaps_and_the_slower_steps_between() -> None:
    trace = trace_of(*[QUIET] * 5, (0.6, "save"), QUIET, QUIET, (0.3, "durable"), *[QUIET] * 5)
    assert summarize(trace)["first"] == pytest.approx({"blocked_s": 0.7, "durable_s": 4.1, "lost_s": 0.7})
    slower = [(what, when if when < 7.5 else when + 2.0) for what, when in trace]  # the step after the save took 3
    assert summarize(slower)["first"] == pytest.approx({"blocked_s": 0.7, "durable_s": 6.1, "lost_s": 2.7})


def test_clock_saves_after_quiet_steps_and_never_twice_at_a_time() -> None:
    clock = SaveClock(num_saves=2, num_quiet_steps=3)
    said, told = [], []
    for step in range(1, 15):
        told.append(clock.step_begins())
        said.append(clock.step_ends())
        if step in (5, 8):
            clock.is_durable()
    assert [step for step, is_wanted in enumerate(said, 1) if is_wanted] == [3, 8]
    assert [step for step, is_told in enumerate(told, 1) if is_told] == [6, 9]
    assert clock.is_over


# The suite of checkpoints


def test_checkpoint_suite_measures_every_way_and_prints_it() -> None:
    results = run("checkpoint")
    size = results["sizes"]["0.2 GB"]
    assert size["failed"] == {}
    assert set(size["rows"]) == set(checkpoint._WAYS)
    assert 0.5 < size["megabytes"] < 1.5
    for name, row in size["rows"].items():
        assert 0 < row["durable_s"]["median"] < 60, name
        assert len(row["rounds"]) == 1
    # What is held up at once is done when the next step begins.
    at_once = size["rows"]["loopwright"]
    assert at_once["durable_s"]["median"] == pytest.approx(at_once["blocked_s"]["median"], rel=0.2, abs=0.01)
    assert len(size["goals"]) == len(checkpoint._GOALS)
    text = printed("checkpoint", results)
    assert all(f"│ {name} " in text for name in size["rows"])
    assert all(one["what"] in text for one in size["goals"])
    assert "…" not in text


def test_every_way_to_save_is_in_the_suite() -> None:
    assert {*checkpoint._WAYS, *checkpoint._PEERS} == set(saving.WAYS)
    assert set(checkpoint._DURABLE) < set(saving.WAYS)


def test_state_is_as_large_as_asked_for() -> None:
    job = saving._make_job(30.0, Path("out"))
    assert 3 * sum(parameter.nbytes for parameter in job.model.parameters()) == pytest.approx(30e6, rel=0.2)


def test_digests_are_left_out_in_that_process_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    with Worker() as worker, Worker() as other:
        worker.ask("benchmarks.saving:time_saves", way="loopwright, no digests", megabytes=0.5, num_saves=1)
        assert set(worker.ask("loopwright._support.files:digest_file", path=str(file))) == {"0"}
        assert set(other.ask("loopwright._support.files:digest_file", path=str(file))) != {"0"}


@pytest.mark.parametrize("way", ["dcp, async", "dcp, async, stager kept"])
def test_distributed_checkpoint_saves_in_a_process_of_its_own(way: str) -> None:
    with Worker() as worker:
        found = worker.ask("benchmarks.saving:time_saves", way=way, megabytes=0.5, num_saves=2)
    assert found["later"]["durable_s"] > 0


# The suite of resumes


def test_resume_suite_measures_its_cases_and_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {name: case for name, case in resume._CASES.items() if name in ("map-style, no workers", "stream")}
    monkeypatch.setattr(resume, "_CASES", cases)
    results = run("resume")
    assert results["failed"] == {}
    assert (results["near"], results["far"]) == (10, 50)
    assert set(results["rows"]) == {f"loopwright: {name}" for name in cases}
    for row in results["rows"].values():
        assert row["ratio"]["median"] == pytest.approx(row["far_s"]["median"] / row["near_s"]["median"])
    text = printed("resume", results)
    assert all(f"│ {name} " in text for name in results["rows"])
    assert "at step 50" in text
    assert "…" not in text


@pytest.mark.parametrize("data", list(resuming.DATA))
def test_resume_in_another_place_is_no_figure(tmp_path: Path, data: str) -> None:
    asking = {"library": "loopwright", "data": data, "num_workers": 0, "position": 3, "num_steps": 20}
    asking["output_dir"] = str(tmp_path / "out")
    with Worker() as worker:
        seen = worker.ask("benchmarks.resuming:prepare", **asking)
        assert data != "stream" or seen == 3
        assert worker.ask("benchmarks.resuming:resume", **asking, expected=seen)["seconds"] > 0
        with pytest.raises(WorkerError, match=f"resumed at step 4 with example {seen}, not at 4 with {seen + 1}"):
            worker.ask("benchmarks.resuming:resume", **asking, expected=seen + 1)
