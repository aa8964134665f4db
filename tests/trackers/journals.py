"""A journal that a test writes by hand and delivers to one service: what the tests of every service share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import read_all
from loopwright.delivery.store import DeliveryStore
from loopwright.delivery.worker import Deadlines, Worker
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.registry import make_tracker
from tests.trackers.disks import fill


class ServiceJournal:
    """A run's journal in `directory`, written here and delivered as `loopwright sync` does.

    Arguments:
        directory: Made where there is none.
        run: Fields of the `Run`.
    """

    tracker_class: ClassVar[type[TrackerCallback]]
    age_seconds: ClassVar[float] = 0.0  # how long ago the run began

    def __init__(self, directory: Path, **run: Any) -> None:
        self.directory = directory.resolve()
        self.recorder = Recorder(directory)
        created_at = time.time() - self.age_seconds
        self.run = Run(**{"id": uuid.uuid4().hex, "output_dir": str(self.directory), "created_at": created_at, **run})

    def begin(self, **attempt: Any) -> None:
        """Begin an attempt that reports to the service as the environment says."""
        self.recorder.begin_attempt(self.run, purpose="training", **attempt)
        kind = self.tracker_class
        tracker = kind()
        place, variables = f"{kind.__module__}:{kind.__qualname__}", read_all(kind.variables)
        self.recorder.add_sink(
            SinkEntry(self.run.id, kind.name, place, {}, variables, "delivery", tracker.wants_checkpoints())
        )

    def log(self, first: int, last: int | None = None, **values: Any) -> None:
        """Record lines of the steps from `first` to `last`."""
        for step in range(first, (first if last is None else last) + 1):
            self.note(Kind.LOG, step, values or {"loss": 1 / step, "learning_rate": 1e-3, "epoch": step / 10})

    def log_past(self, step: int, last: int) -> Any:
        """Record lines of the steps from 1 to `last`; return the whereabouts of a checkpoint at `step`."""
        self.log(1, step)
        whereabouts = self.recorder.whereabouts()
        self.log(step + 1, last)
        return whereabouts

    def note(self, kind: Kind, step: int, values: Mapping[str, Any]) -> int:
        return self.recorder.record(kind, step, values)

    def end(self, status: Status = Status.COMPLETED) -> None:
        self.recorder.end_attempt(status)

    def status(self) -> Status:
        """Return how the newest attempt stands."""
        with JournalReader(self.directory) as reader:
            return reader.attempts(self.run.id)[-1].status

    def deliver(self) -> str | None:
        """Deliver what there is, close, and return what stands in the way."""
        status = self.status()
        worker = self.start_worker(status=status)
        if status is Status.RUNNING:
            worker.finish()
        assert worker.join(60)
        return worker.error

    def confirm(self) -> Worker:
        """Deliver what there is, wait until it is confirmed, and return the worker, which goes on."""
        worker = self.start_worker()
        until = time.monotonic() + 30
        while worker.pending():
            assert time.monotonic() < until, worker.error
            time.sleep(0.02)
        return worker

    def deliver_over_full_disk(self, ballast: Path, last: int) -> None:
        """Deliver steps up to `last`; with the sixth, `ballast` fills the service's disk until that has been felt."""
        self.begin()
        self.log(1, 5)
        worker = self.confirm()
        fill(ballast)
        self.log(6, last)
        time.sleep(3)
        assert worker.pending() > 0
        ballast.unlink()
        worker.finish()
        assert worker.join(60)
        self.end()
        assert self.deliver() is None

    def start_worker(self, *, status: Status | None = Status.RUNNING, deadlines: Deadlines | None = None) -> Worker:
        """Start to deliver in this process; `status` None for the journal's."""
        reader = JournalReader(self.directory)
        (entry,) = reader.sinks(self.run.id)
        worker = Worker(
            reader.run(self.run.id) or self.run,
            self.tracker_class.name,
            lambda: make_tracker(entry),
            reader=reader,
            store=DeliveryStore(self.directory),
            status=lambda: status or reader.attempts(self.run.id)[-1].status,
            deadlines=deadlines or Deadlines(),
        )
        worker.start()
        return worker

    def forget(self, **columns: Any) -> None:
        """Put what delivery knows to what a kill would have left."""
        store = DeliveryStore(self.directory)
        store._set(self.run.id, self.tracker_class.name, was_closed=0, **columns)
        store.close()
