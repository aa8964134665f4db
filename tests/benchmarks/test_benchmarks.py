"""That the benchmarks compare like with like, and that clocks and statistics say what they claim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import typer

from benchmarks import __main__ as command
from benchmarks import training
from benchmarks.implementations import BARE, IMPLEMENTATIONS, INSTALL_PEERS, bare
from benchmarks.recipe import check_counts
from benchmarks.rounds import alternate, spread, spread_of_ratios
from benchmarks.settings import Options, Setting
from benchmarks.suites import SUITES, evaluate, memory
from benchmarks.suites.overhead import same_loss
from benchmarks.worker import ROOT, Worker, WorkerError
from benchmarks.workloads import Stopwatch
from tests.benchmarks.rendering import printed

CHECKED = Setting("mlp1", log_every=5, bar=False, shuffle=False)


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


# Like with like


@pytest.fixture(scope="module")
def losses_of_the_bare_loop() -> dict[Setting, float]:
    settings = [CHECKED, replace(CHECKED, accumulation=4), Setting("gpt10", log_every=5, shuffle=False)]
    return {setting: training.final_loss(BARE, asdict(setting), 20) for setting in settings}


@pytest.mark.parametrize("name", [name for name, one in IMPLEMENTATIONS.items() if name != BARE and one.suite is None])
def test_implementation_arrives_at_the_loss_of_the_bare_loop(
    name: str, losses_of_the_bare_loop: dict[Setting, float]
) -> None:
    if not IMPLEMENTATIONS[name].is_installed:
        pytest.skip(INSTALL_PEERS)
    with Worker() as worker:
        for setting, expected in losses_of_the_bare_loop.items():
            found = worker.ask(
                "benchmarks.training:final_loss", implementation=name, setting=asdict(setting), num_steps=20
            )
            assert same_loss(found, expected), (setting, found, expected)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("MAX_GRAD_NORM", 0.5),
        ("make_scheduler", lambda job, optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        ("make_optimizer", lambda job: torch.optim.AdamW(job.model.parameters(), lr=1e-3, weight_decay=0.1)),
    ],
)
def test_comparison_of_losses_notices_another_recipe(monkeypatch: pytest.MonkeyPatch, part: str, other: object) -> None:
    expected = training.final_loss(BARE, asdict(CHECKED), 20)
    monkeypatch.setattr(bare, part, other)
    assert not same_loss(training.final_loss(BARE, asdict(CHECKED), 20), expected)


def test_implementation_that_does_fewer_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    make_loader = bare.make_loader
    monkeypatch.setattr(bare, "make_loader", lambda job: list(make_loader(job))[:-1])
    with pytest.raises(RuntimeError, match="did 19 forward passes instead of 20"):
        training.final_loss(BARE, asdict(CHECKED), 20)


def test_callback_that_was_not_called_is_refused() -> None:
    class NeverCalled:
        num_calls = 0

    with pytest.raises(RuntimeError, match=r"called \[0\] times instead of 3"):
        check_counts([NeverCalled()], 3)


# Clocks and statistics


def test_time_of_a_step_holds_what_happens_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    make_loader = bare.make_loader

    def sleep_before_each_batch(job: object) -> Iterator[object]:
        for batch in make_loader(job):
            time.sleep(0.01)
            yield batch

    monkeypatch.setattr(bare, "make_loader", sleep_before_each_batch)
    found = training.timed_training(BARE, asdict(Setting("tiny")), 10)
    assert found["wall_ms"] >= 10
    # Asleep, a process takes no CPU time.
    assert found["cpu_ms"] < found["wall_ms"] - 9


def test_stopwatch_reads_the_clocks_at_its_marks_alone() -> None:
    stopwatch = Stopwatch([2, 5])
    readings = []
    for _ in range(7):
        stopwatch.tick()
        readings.append(len(stopwatch.readings))
    assert readings == [0, 1, 1, 1, 2, 2, 2]


def test_rounds_alternate_and_turn_round() -> None:
    order: list[str] = []

    def note(name: str) -> dict[str, float]:
        order.append(name)
        return {}

    alternate({name: lambda name=name: note(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"


def test_entry_that_raises_leaves_the_rounds_and_the_others_go_on() -> None:
    def fail() -> dict[str, float]:
        raise WorkerError("Traceback\n...\nValueError: no such thing\n")

    measured = alternate({"good": lambda: {"value": 1.0}, "bad": fail}, 2)
    assert measured.rounds == {"good": [{"value": 1.0}] * 2}
    assert measured.failed == {"bad": "ValueError: no such thing"}


def test_ratio_is_taken_within_its_round() -> None:
    # The machine was ten times slower in the second round: the ratio is not touched by that.
    assert spread_of_ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])["median"] == 2.0
    assert spread([1, 2, 3, 4, 5]) == {"median": 3, "q1": 2, "q3": 4, "min": 1, "max": 5}
    assert spread([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0, "min": 7.0, "max": 7.0}


# The worker


def test_worker_writes_to_a_terminal_and_hands_back_results_and_errors() -> None:
    with Worker() as worker:
        assert worker.ask("subprocess:call", args=["test", "-t", "1"]) == 0
        with pytest.raises(WorkerError) as caught:
            worker.ask("json:loads", s="{")
        assert caught.value.reason.startswith("json.decoder.JSONDecodeError")
        assert worker.ask("os:getpid") not in (None, os.getpid())


def test_death_of_a_worker_is_an_error() -> None:
    with Worker() as worker, pytest.raises(WorkerError, match="died with status 3"):
        worker.ask("os:_exit", status=3)


# The command


def test_command_measures_overhead_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["overhead", "--rounds", "2", "--seconds", "0.05", "--case", "mlp1", "--json", str(file)]
    line = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["machine"]["cores"] == os.cpu_count()
    assert figures["machine"]["packages"]["torch"]
    overhead = figures["suites"]["overhead"]
    assert overhead["failed"] == {}
    assert set(overhead["cases"]) == {"mlp1"}
    for name, case in overhead["cases"].items():
        assert set(case["rows"]) == {"bare", "bare again", "loopwright"}
        assert case["rows"]["bare"]["wall_ratio"]["median"] == 1.0
        for row in case["rows"].values():
            assert len(row["rounds"]) == 2
            assert row["wall_ms"]["min"] <= row["wall_ms"]["q1"] <= row["wall_ms"]["median"] <= row["wall_ms"]["max"]
            assert row["cpu_ms"]["median"] > 0
        assert f"{name} (log every 100, bar; 2 rounds of {case['num_steps']} steps)" in done.stdout
    losses = overhead["final_losses"]
    assert all(same_loss(loss["mlp1"], losses["bare"]["mlp1"]) for loss in losses.values())
    # What was written is enough to print the tables again.
    assert len(list(SUITES["overhead"].render(overhead))) == 1


def test_evaluation_is_measured_in_time_and_memory() -> None:
    results = SUITES["evaluate"].run(Options(("bare", "loopwright"), 1, round_seconds=0.02), lambda text: None)
    assert results["failed"] == {}
    assert set(results["rows"]) == {"bare", "loopwright"}
    for row in results["rows"].values():
        assert row["seconds"]["median"] > 0
        # Memory that was free may serve: so it can be less than the predictions, and is not much more.
        assert row["peak_mb"]["median"] < results["predictions_mb"] + 30
    text = printed("evaluate", results)
    assert all(f"│ {name} " in text for name in results["rows"])
    assert "…" not in text


def test_evaluation_that_finds_other_metrics_is_no_figure() -> None:
    right = {"seconds": 1.0, "peak_mb": 1.0, "loss": 0.5, "accuracy": 0.25}
    evaluate._compare("other", [right], [right])
    with pytest.raises(RuntimeError, match=r"other found accuracy=0.26, and the bare loop 0.25"):
        evaluate._compare("other", [{**right, "accuracy": 0.26}], [right])


def test_memory_is_measured_in_new_processes_and_a_leak_is_seen() -> None:
    results = SUITES["memory"].run(Options(("bare", "loopwright"), 1, round_seconds=0.01), lambda text: None)
    assert results["failed"] == {}
    bare, ours = results["rows"]["bare"], results["rows"]["loopwright"]
    assert bare["import_mb"]["median"] <= ours["import_mb"]["median"] < 50
    assert 0 < bare["peak_mb"]["median"] <= ours["peak_mb"]["median"] + 5
    leaking = [{"import_mb": 0.0, "peak_mb": 9.0, "growth_mb": 2.0}]
    assert memory._summarize(leaking, [20, 120])["growth_mb"]["median"] == 200.0
    text = printed("memory", results)
    assert all(f"│ {name} " in text for name in results["rows"])
    assert "…" not in text


def test_names_choose_suites_and_peers() -> None:
    assert command._choose([], with_peers=False)[:2] == (list(SUITES), ("bare", "loopwright"))
    assert command._choose(["import", "ignite"], with_peers=False)[0] == ["import"]
    with pytest.raises(
        typer.BadParameter,
        match=r"unknown: overheat; there are overhead, dispatch, import, .*, evaluate, memory,",
    ):
        command._choose(["overheat"], with_peers=False)


def test_peer_that_is_not_installed_is_listed_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = replace(IMPLEMENTATIONS["ignite"], distribution="no-such-distribution")
    monkeypatch.setitem(IMPLEMENTATIONS, "ignite", absent)
    _, chosen, missing = command._choose([], with_peers=True)
    assert missing == ["ignite"]
    assert "ignite" not in chosen
    command.main(list_all=True)
    row = next(line for line in capsys.readouterr().out.splitlines() if "ignite" in line)
    assert INSTALL_PEERS in row
