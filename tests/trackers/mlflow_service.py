"""MLflow for tests: databases copied from one that is made once, a real server on loopback, and journals to deliver."""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from loopwright.delivery.follower import Follower
from loopwright.delivery.store import read_delivered
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.naming import group_name, numbers
from loopwright.trackers.registry import make_tracker
from tests.trackers.journals import ServiceJournal

Points = list[tuple[str, int, int, str]]
_START_SECONDS = 120.0


class Databases:
    """Copies of an empty MLflow database: to make one takes up to 9 s, to copy it none."""

    def __init__(self, directory: Path) -> None:
        from mlflow import MlflowClient

        self._template = directory / "template.db"
        MlflowClient(tracking_uri=f"sqlite:///{self._template}").search_experiments()

    def copy(self, path: Path) -> str:
        """Copy it to `path`, and return the new one's URI."""
        shutil.copy(self._template, path)
        return f"sqlite:///{path}"


@functools.cache
def databases() -> Databases:
    """Return one template for all tests of this process."""
    directory = Path(tempfile.mkdtemp(prefix="mlflow-template-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Databases(directory)


class Server:
    """A real `mlflow server`, in a process group of its own."""

    def __init__(self, directory: Path, databases: Databases) -> None:
        self._directory = directory
        self._database = databases.copy(directory / "server.db")
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self._port = listening.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, at the same port and on the same database as before; `wait` until it answers."""
        options = {
            "--host": "127.0.0.1",
            "--port": str(self._port),
            "--workers": "1",
            "--backend-store-uri": self._database,
            "--artifacts-destination": str(self._directory / "artifacts"),
        }
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert time.monotonic() < until, (self._directory / "server.log").read_text()[-3000:]
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self._process.wait()


class Journal(ServiceJournal):
    """A journal for MLflow."""

    tracker_class = MLflowCallback
    age_seconds = 100.0

    def log(self, first: int, last: int, **values: Any) -> None:
        """Record lines of the steps from `first` to `last`."""
        for step in range(first, last + 1):
            self.recorder.record(Kind.LOG, step, {"loss": 1.0 / step, "grad_norm": float(step), **values})

    def deliver(self) -> str | None:
        """Deliver what is left; return what stands in the way."""
        follower = Follower(self.directory, make_tracker, trackers=["mlflow"])
        follower.run()
        return next((worker.error for worker in follower.workers.values()), None)

    def deliver_one_line(self, step: int = 1) -> str | None:
        """Record and deliver a whole attempt with one log line; return what stands in the way."""
        self.begin()
        self.log(step, step)
        self.end()
        return self.deliver()

    @property
    def reference(self) -> dict[str, Any]:
        return read_delivered(self.directory, self.run.id, "mlflow").reference

    def points(self) -> Points:
        """Return all that MLflow has to hold."""
        return recorded_points(self.directory, self.run.id)


def recorded_points(directory: Path, run_id: str | None = None, tracker: str | None = None) -> Points:
    """Return name, step, time in milliseconds and value of all that counts in a journal, sorted, each once."""
    with JournalReader(directory) as reader:
        records = reader.records(run_id, kinds=[Kind.LOG, Kind.PREDICTION], tracker=tracker)
    found = {
        (group_name(name), record.step, int(record.time * 1000), as_stored(value))
        for record in records
        for name, value in numbers(record.values)
    }
    return sorted(found)


def as_stored(value: float) -> str:
    """Return a value as MLflow keeps it: what is beyond the largest double as that."""
    largest = sys.float_info.max
    return repr(value if isinstance(value, float) and math.isnan(value) else float(min(max(value, -largest), largest)))


def stored_points(client: Any, run_id: str) -> Points:
    """Return every point that MLflow holds, in the form of `recorded_points`."""
    names = client.get_run(run_id).data.metrics
    return sorted(
        (name, point.step, point.timestamp, repr(point.value))
        for name in names
        for point in client.get_metric_history(run_id, name)
    )


def runs_of(client: Any, journal: Journal, experiment: str = "0") -> list[Any]:
    """Return MLflow's runs that show the journal's."""
    return list(client().search_runs([experiment], f"tags.`loopwright.run_id` = '{journal.run.id}'"))


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)
