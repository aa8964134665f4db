"""The fault matrix over the three services with their real SDKs: the training is the same, and nothing is lost.

Pairwise: each fault at each place, the tracker living now in the delivery process, now in the training's. Whatever
went wrong, the weights equal those of a training without trackers, and `loopwright sync` afterwards makes the service's
content equal to the journal, point by point.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from loopwright.trackers import registry
from loopwright.trackers.wandb_session import tear_down
from tests.trackers import readback
from tests.trackers.mlflow_service import Databases
from tests.trackers.trainings import build, deliver_what_is_left, same_weights, tracker_at, weights

HERE = Path(__file__).parent
SERVICES = ("tensorboard", "mlflow", "wandb")
FAULTS = ("raise", "raise-after", "exit", "hang", "hang-after")
PLACES = ("open", "deliver", "artifact", "close")
# Each fault at each place once, in alternating homes; other homes for other services.
CASES = [
    pytest.param(
        service, fault, place, ("delivery", "training")[(row + column + number) % 2], id=f"{service}-{fault}-{place}"
    )
    for number, service in enumerate(SERVICES)
    for row, fault in enumerate(FAULTS)
    for column, place in enumerate(PLACES)
    if not (service == "tensorboard" and place == "artifact")
]
pytestmark = [
    # The thread of SummaryWriter dies of what it is left in.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="session")
def databases(tmp_path_factory):
    return Databases(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module")
def without_trackers(tmp_path_factory):
    trainer = build(tmp_path_factory.mktemp("plain"))
    trainer.train()
    return weights(trainer)


@pytest.fixture
def faulty(monkeypatch, tmp_path, databases):
    """Return the module of the faulty trackers; each has a place of its own in `tmp_path`."""
    monkeypatch.syspath_prepend(HERE / "faulty")
    registry.listed_trackers.cache_clear()
    import faulty_trackers

    (tmp_path / "wandb").mkdir()
    for name in ("", "CACHE_", "DATA_", "CONFIG_"):
        monkeypatch.setenv(f"WANDB_{name}DIR", str(tmp_path / "wandb"))
    for name, value in {
        "FAULT_FILE": str(tmp_path / "fault"),
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "events"),
        "MLFLOW_TRACKING_URI": databases.copy(tmp_path / "mlflow.db"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_MLFLOW_LOG_ARTIFACTS": "true",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_LOG_MODEL": "checkpoint",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield faulty_trackers
    registry.listed_trackers.cache_clear()
    if "wandb" in sys.modules:  # it keeps its settings, this test's variables among them, for the whole process
        leaving = threading.Thread(target=tear_down, daemon=True)
        leaving.start()
        leaving.join(10)


def holds_everything(service, directory, out):
    if service == "tensorboard":
        return readback.tensorboard(directory / "events") == readback.as_float32(readback.journal(out))
    if service == "mlflow":
        return readback.mlflow(f"sqlite:///{directory}/mlflow.db") == readback.journal_by_millisecond(out)
    return readback.wandb(directory / "wandb") == readback.last_of_each(out)


@pytest.mark.parametrize(("service", "fault", "place", "home"), CASES)
def test_fault_changes_nothing_and_loses_nothing(service, fault, place, home, faulty, tmp_path, without_trackers):
    (tmp_path / "fault").write_text(f"{fault}@{place}")
    kind = {"tensorboard": "FaultyTensorBoard", "mlflow": "FaultyMLflow", "wandb": "FaultyWandb"}[service]
    out = tmp_path / "out"
    trainer = build(
        out, callbacks=[tracker_at(home, getattr(faulty, kind))], tracker_call_timeout=3, tracker_close_timeout=6,
        tracker_open_timeout=4,
    )  # fmt: skip
    began = time.monotonic()
    trainer.train()
    assert time.monotonic() - began < 30
    assert same_weights(weights(trainer), without_trackers)
    with JournalReader(out) as reader:
        assert reader.attempts()[-1].status is Status.COMPLETED
    trainer.reporting.close()
    (tmp_path / "fault").unlink()
    deliver_what_is_left(out, modules=HERE / "faulty")
    assert holds_everything(service, tmp_path, out)


def fill(path):
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


@pytest.mark.parametrize("service", ["mlflow", "wandb"])
def test_full_disk_changes_nothing_and_loses_nothing(service, faulty, tmp_path, without_trackers, monkeypatch, request):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(disk)], check=False))
    if service == "mlflow":
        shutil.copy(tmp_path / "mlflow.db", disk / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk}/mlflow.db")
    else:
        (disk / "wandb").mkdir()
        monkeypatch.setenv("WANDB_DIR", str(disk / "wandb"))
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", "false")
    monkeypatch.setenv("WANDB_LOG_MODEL", "false")
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        fill(ballast)
    out = tmp_path / "out"
    kind = {"mlflow": "FaultyMLflow", "wandb": "FaultyWandb"}[service]
    trainer = build(out, callbacks=[getattr(faulty, kind)()], tracker_call_timeout=20, tracker_close_timeout=8)
    trainer.train()
    trainer.reporting.close()
    assert same_weights(weights(trainer), without_trackers)
    ballast.unlink()
    deliver_what_is_left(out, modules=HERE / "faulty")
    assert holds_everything(service, disk, out)
