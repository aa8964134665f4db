"""Output directories of real trainings: a whole one, a killed one, one in two attempts, one whose tracker is stuck."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import loopwright
from loopwright.delivery.store import DeliveryStore
from loopwright.journal.reader import SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status
from tests.parity.tiny import build
from tests.report.hostility import HOSTILE

PROGRAM = Path(__file__).with_name("train_and_die.py")


def run_program(directory, step):
    command = [sys.executable, str(PROGRAM), str(directory), str(step)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A training of nine steps with an evaluation and a checkpoint after each three."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    trainer = build(loopwright, directory, disable_tqdm=True, seed=7)
    trainer.train()
    trainer.reporting.close()
    return directory


@pytest.fixture(scope="session")
def two_attempts(tmp_path_factory):
    """A training that was killed in its eighth step, as it lay there; and started again, until it stopped early."""
    place = tmp_path_factory.mktemp("runs")
    finished = run_program(place / "resumed", 8)
    assert finished.returncode == -9, finished.stderr
    shutil.copytree(place / "resumed", place / "killed")
    finished = run_program(place / "resumed", 0)
    assert finished.returncode == 0, finished.stderr
    return place


@pytest.fixture(scope="session")
def killed(two_attempts):
    """A training that was killed, which nobody has started again."""
    return two_attempts / "killed"


@pytest.fixture(scope="session")
def resumed(two_attempts):
    """A training that was killed, started again, and stopped early."""
    return two_attempts / "resumed"


@pytest.fixture(scope="session")
def undelivered(tmp_path_factory):
    """A training whose tracker could not write anything."""
    directory = tmp_path_factory.mktemp("runs") / "undelivered"
    stone = directory.parent / "in the way"
    stone.write_text("a file where TensorBoard wants a directory")
    trainer = build(
        loopwright,
        directory,
        disable_tqdm=True,
        report_to="tensorboard",
        logging_dir=str(stone),
        tracker_close_timeout=1,
    )
    trainer.train()
    trainer.reporting.close()
    return directory


@pytest.fixture
def hostile(tmp_path):
    """A run in which every text that can be chosen is an attack."""
    directory = tmp_path / "out"
    recorder = Recorder(directory)
    run = Run(
        id="a" * 32,
        output_dir=str(directory),
        name=HOSTILE,
        arguments={"output_dir": str(directory), HOSTILE: HOSTILE, "run_name": HOSTILE},
    )
    recorder.begin_attempt(run, purpose="training", versions={HOSTILE: HOSTILE})
    recorder.add_sink(SinkEntry(run.id, HOSTILE, "nowhere:Nothing", {}, {}, "delivery", False))
    for step in (1, 2, 3):
        recorder.record(Kind.LOG, step, {"loss": 1.0 / step, HOSTILE: step, f"eval_{HOSTILE}": step})
        recorder.decide(Decision(step, HOSTILE, HOSTILE, HOSTILE, True))
    recorder.record(Kind.CHECKPOINT, 3, {"path": HOSTILE.replace("/", "|")})
    recorder.record(
        Kind.COSTS,
        3,
        {"total": 1.0, "parts": {HOSTILE: 0.5}, "callbacks": {HOSTILE: {HOSTILE: {"calls": 1, "seconds": 1}}}},
    )
    recorder.end_attempt(Status.FAILED, HOSTILE)
    recorder.close()
    store = DeliveryStore(directory)
    store.note_failure(run.id, HOSTILE, HOSTILE)
    store.close()
    return directory
