"""The fault matrix over the services with their real SDKs: the training is the same, and nothing is lost.

Each fault at each place, the tracker living now in the delivery process, now in the training's; most of it is run with
`-m soak`. Whatever went wrong, the weights equal those of a training without trackers, and `loopwright sync` afterwards
makes the service's content equal to the journal, point by point. Flyte's tracker, which is on only in a task, has a
matrix of its own, in its own tests.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from loopwright.trackers.registry import BUILT_IN
from loopwright.trackers.wandb_session import tear_down
from tests.trackers.disks import fill, mount_small_disk
from tests.trackers.places import place_of
from tests.trackers.trainings import (
    FAULT_PLACES,
    FAULTS,
    UntilFault,
    build,
    deliver_what_is_left,
    same_weights,
    tracker_at,
    weights,
)

HERE = Path(__file__).parent
HOMES = ("delivery", "training")


def cases():
    """Return the matrix; in every run two cases of each service, which together have each fault at several places."""
    for number, listed in enumerate(BUILT_IN):
        place = place_of(listed.name, Path())
        where = [name for name in FAULT_PLACES if name != "artifact" or place.stores_checkpoints]
        if place.home == "off":
            continue
        for row, fault in enumerate(FAULTS):
            for column, name in enumerate(where):
                home = HOMES[(row + column + number) % 2] if place.home == "delivery" else place.home
                is_in_every_run = column == (row + number) % len(where) and (row - 2 * number) % len(FAULTS) < 2
                yield pytest.param(
                    *(listed.name, fault, name, home),
                    id=f"{listed.name}-{fault}-{name}",
                    marks=[] if is_in_every_run else [pytest.mark.soak],
                )


pytestmark = [
    # In this process SDKs are imported beside training, where a warning of theirs would be an error of the tracker's.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    # The thread of SummaryWriter dies of what it is left in.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def wandb_torn_down():
    """Have W&B forget the settings that it keeps for the whole process, a test's variables among them."""
    yield
    if "wandb" in sys.modules:
        leaving = threading.Thread(target=tear_down, daemon=True)
        leaving.start()
        leaving.join(10)


@pytest.fixture
def service(request, monkeypatch, tmp_path):
    """Return the place of the service that the test is given, by indirect parametrization."""
    before = dict(os.environ)
    place = place_of(request.param, tmp_path)
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    yield place
    place.close()
    os.environ.clear()  # a tracker that lives in this process sets its SDK's variables
    os.environ.update(before)


@pytest.mark.parametrize(("service", "fault", "where", "home"), list(cases()), indirect=["service"])
def test_fault_changes_nothing_and_loses_nothing(service, fault, where, home, faulty, tmp_path, without_trackers):
    (tmp_path / "fault").write_text(f"{fault}@{where}")
    out = tmp_path / "out"
    kind = getattr(faulty, f"Faulty_{service.name}")
    call_seconds = service.call_seconds
    patience = UntilFault(tmp_path, where)
    trainer = build(
        out, callbacks=[tracker_at(home, kind), patience], tracker_call_timeout=call_seconds,
        tracker_close_timeout=2 * call_seconds, tracker_open_timeout=call_seconds + 1,
    )  # fmt: skip
    began = time.monotonic()
    trainer.train()
    assert time.monotonic() - began - patience.waited < 15 + 5 * call_seconds
    assert same_weights(weights(trainer), without_trackers)
    with JournalReader(out) as reader:
        assert reader.attempts()[-1].status is Status.COMPLETED
        assert [entry.place for entry in reader.sinks()] == [home]
    trainer.reporting.close()
    assert (tmp_path / "fault-met").exists()
    (tmp_path / "fault").unlink()
    deliver_what_is_left(out, modules=HERE / "faulty")
    assert service.holds(out)


@pytest.mark.parametrize("service", ["mlflow", "wandb"], indirect=True)
def test_full_disk_changes_nothing_and_loses_nothing(service, faulty, tmp_path, without_trackers, monkeypatch, request):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount_small_disk(request, disk, "3m")
    if service.name == "mlflow":
        shutil.copy(tmp_path / "mlflow.db", disk / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk}/mlflow.db")
    else:
        (disk / "wandb").mkdir()
        monkeypatch.setenv("WANDB_DIR", str(disk / "wandb"))
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", "false")
    monkeypatch.setenv("WANDB_LOG_MODEL", "false")
    ballast = disk / "ballast"
    fill(ballast)
    out = tmp_path / "out"
    kind = getattr(faulty, f"Faulty_{service.name}")
    trainer = build(out, callbacks=[kind()], tracker_call_timeout=20, tracker_close_timeout=8)
    trainer.train()
    trainer.reporting.close()
    assert same_weights(weights(trainer), without_trackers)
    ballast.unlink()
    deliver_what_is_left(out, modules=HERE / "faulty")
    assert type(service)(disk).holds(out)
