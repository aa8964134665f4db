"""A training killed at random instants and started again until it is done: each service holds what it would have held.

The delivery process is killed at random too. Compared with a training that nobody killed, by name, step and value;
times and rates of the machine aside.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from loopwright.journal.reader import JournalReader
from loopwright.journal.repetition import is_volatile
from loopwright.records import Kind, Status
from loopwright.trackers.naming import group_name, numbers
from tests.trackers import readback
from tests.trackers.service import Service
from tests.trackers.trainings import journal_points

SCRIPT = Path(__file__).with_name("train_until_done.py")
TRACKERS = "generic,mlflow,tensorboard,wandb"
STEPS = 60


def environment(directory: Path, service: Service) -> dict[str, str]:
    places = {
        name: str(directory / "wandb")
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")
    }
    (directory / "wandb").mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        **places,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
        "GENERIC_URL": service.url,
        "GENERIC_ARTIFACTS": "1",
    }


def start(directory: Path, service: Service, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(directory / "out"), TRACKERS, str(STEPS), str(seconds)],
        cwd=directory,
        env=environment(directory, service),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_undisturbed(directory: Path, service: Service) -> None:
    process = start(directory, service, 0.0)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def kill_delivery(pid: int) -> None:
    for child in children_of(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"--follow" in command:
                os.kill(child, signal.SIGKILL)
        except OSError:
            pass


def train_killed(directory: Path, service: Service, kills: int, seed: int) -> int:
    """Train, killed `kills` times at random instants of the training itself; return how many kills hit."""
    dice = random.Random(seed)
    hits = 0
    for _ in range(kills):
        process = start(directory, service, 0.06)
        began_at_step = steps_in(directory)
        until = time.monotonic() + 60
        while process.poll() is None and steps_in(directory) == began_at_step and time.monotonic() < until:
            time.sleep(0.05)  # importing torch is not what is to be hit
        time.sleep(dice.uniform(0.0, 1.2))
        if dice.random() < 0.3 and process.poll() is None:
            kill_delivery(process.pid)
            time.sleep(dice.uniform(0.0, 0.5))
        if process.poll() is None:
            hits += 1
            process.kill()
        process.wait(timeout=30)
        if process.stderr is not None:
            process.stderr.close()
    train_undisturbed(directory, service)
    return hits


def steps_in(directory: Path) -> int:
    try:
        with JournalReader(directory / "out") as reader:
            return reader.last_sequence() + len(reader.attempts())
    except Exception:
        return 0


def steady_points(directory: Path) -> dict[tuple[str, int], Counter[str]]:
    """Return what counts in the journal, by name and step, without what tells of the machine."""
    with JournalReader(directory / "out") as reader:
        records = reader.records(kinds=[Kind.LOG])
    found: dict[tuple[str, int], Counter[str]] = {}
    for record in records:
        for name, value in numbers(record.values):
            if not is_volatile(name):
                found.setdefault((group_name(name), record.step), Counter())[repr(float(value))] += 1
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    service = Service()
    train_undisturbed(directory, service)
    service.go_away()
    return steady_points(directory)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kills", "seed"), [pytest.param(4, 1, id="4"), pytest.param(30, 2, id="30", marks=pytest.mark.soak)]
)
def test_services_hold_what_they_would_have_held(kills, seed, tmp_path, undisturbed):
    service = Service()
    hits = train_killed(tmp_path, service, kills, seed)
    assert hits >= kills * 0.5, "the kills have to hit"
    # The journal counts each line once, with the value of a training that nobody killed.
    assert steady_points(tmp_path) == undisturbed
    with JournalReader(tmp_path / "out") as reader:
        (run,) = reader.runs()
        statuses = [attempt.status for attempt in reader.attempts(run.id)]
    assert statuses[-1] is Status.COMPLETED
    assert Status.KILLED in statuses
    # Each service holds what the journal counts, point by point, in one run of its own.
    assert service.points[run.id] == journal_points(tmp_path / "out")
    assert service.conflicts == []
    expected = readback.journal(tmp_path / "out")
    assert readback.tensorboard(tmp_path / "out" / "events") == readback.as_float32(expected)
    assert readback.mlflow(f"sqlite:///{tmp_path}/mlflow.db") == readback.journal_by_millisecond(tmp_path / "out")
    assert readback.wandb(tmp_path / "wandb") == readback.last_of_each(tmp_path / "out")
    service.go_away()
