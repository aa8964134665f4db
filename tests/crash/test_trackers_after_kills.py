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
from tests.processes import children_of
from tests.trackers.places import listed_places
from tests.trackers.service import Service
from tests.trackers.trainings import journal_points

SCRIPT = Path(__file__).with_name("train_until_done.py")
STEPS = 60
MEASURED = {"emissions_kg", "energy_kwh"}


class Services:
    """A place for each service that a training can report to from its delivery process, and the generic one.

    Not for those that need a service to run beside them: what a killed delivery leaves there, their own tests show.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.generic = Service()
        places = listed_places(directory)
        self.places = [place for place in places if place.home == "delivery" and not place.needs_service]
        self.environment = {**os.environ, "GENERIC_URL": self.generic.url, "GENERIC_ARTIFACTS": "1"}
        for place in self.places:
            self.environment |= place.environment()

    @property
    def names(self) -> str:
        return ",".join(["generic", *(place.name for place in self.places)])

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """Start, or go on with, the training; each step takes so many seconds."""
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.directory / "out"), self.names, str(STEPS), str(seconds)],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def train_undisturbed(services: Services) -> None:
    process = services.start(0.0)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def kill_delivery(pid: int) -> None:
    for child in children_of(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"--follow" in command:
                os.kill(child, signal.SIGKILL)
        except OSError:
            pass


def train_killed(services: Services, kills: int, seed: int) -> int:
    """Train, killed `kills` times at random instants of the training itself; return how many kills hit."""
    dice = random.Random(seed)
    hits = 0
    for _ in range(kills):
        process = services.start(0.06)
        began_at_step = steps_in(services.directory)
        until = time.monotonic() + 60
        while process.poll() is None and steps_in(services.directory) == began_at_step and time.monotonic() < until:
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
    train_undisturbed(services)
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
            if not (is_volatile(name) or name in MEASURED):
                found.setdefault((group_name(name), record.step), Counter())[repr(float(value))] += 1
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    services = Services(tmp_path_factory.mktemp("undisturbed"))
    train_undisturbed(services)
    services.generic.go_away()
    return steady_points(services.directory)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kills", "seed"), [pytest.param(4, 1, id="4"), pytest.param(30, 2, id="30", marks=pytest.mark.soak)]
)
def test_services_hold_what_they_would_have_held(kills, seed, tmp_path, undisturbed):
    services = Services(tmp_path)
    hits = train_killed(services, kills, seed)
    assert hits >= kills * 0.5, "the kills have to hit"
    # The journal counts each line once, with the value of a training that nobody killed.
    assert steady_points(tmp_path) == undisturbed
    with JournalReader(tmp_path / "out") as reader:
        (run,) = reader.runs()
        statuses = [attempt.status for attempt in reader.attempts(run.id)]
    assert statuses[-1] is Status.COMPLETED
    assert Status.KILLED in statuses
    # Each service holds what the journal counts, point by point, in one run of its own.
    out = tmp_path / "out"
    assert services.generic.points[run.id] == journal_points(out)
    assert services.generic.conflicts == []
    for place in services.places:
        assert place.num_runs(out) == 1, place.name
        assert place.holds(out), place.name
    services.generic.go_away()
