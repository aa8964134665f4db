"""Trackers that live in the training process: each on a thread of its own, opened before the first step.

The loop never calls an SDK. It waits for the opening alone, under a deadline, and puts the random states back after
it: several SDKs move the global ones. A thread that hangs is left behind; the records wait in the journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.delivery.store import DeliveryStore
from loopwright.delivery.worker import Deadlines, Worker
from loopwright.errors import TrackerError
from loopwright.journal.reader import JournalReader
from loopwright.records import Run, Status
from loopwright.runtime.randomness import capture_randomness, restore_randomness

logger: Logger = get_logger(__name__)


class LocalTrackers:
    """The trackers of one run in this process.

    Arguments:
        output_dir: Where the journal is.
        run: The run.
        trackers: Not yet opened, each knowing its `sink_name`.
        status: Returns how the run stands.
        deadlines: For calls into the SDKs.
    """

    def __init__(
        self,
        output_dir: Path,
        run: Run,
        trackers: Sequence[Any],
        *,
        status: Callable[[], Status],
        deadlines: Deadlines,
    ) -> None:
        self.trackers: list[Any] = list(trackers)
        self._run = run
        self._status = status
        self._deadlines = deadlines
        self._reader = JournalReader(output_dir)
        self._store = DeliveryStore(output_dir)
        self.workers: dict[str, Worker] = {}

    def open(self, timeout_seconds: float) -> None:
        """Open them all, and wait until each is open, has failed, or the time is over."""
        randomness = capture_randomness()
        until = time.monotonic() + timeout_seconds
        try:
            self.start()
            for name, worker in self.workers.items():
                if not worker.has_opened.wait(max(until - time.monotonic(), 0.0)):
                    logger.warning(
                        "%s was not open after %.0f s (tracker_open_timeout): training begins without waiting for it",
                        name,
                        timeout_seconds,
                    )
        finally:
            restore_randomness(randomness)
        for tracker in self.trackers:
            self._adopt(tracker)

    def start(self) -> None:
        """Start a worker for each tracker that has none at work."""
        for tracker in self.trackers:
            present = self.workers.get(tracker.sink_name)
            if present is not None and not present.is_done:
                continue
            _guard_setup(tracker)
            self.workers[tracker.sink_name] = worker = self._make_worker(tracker)
            worker.start()

    def finish(self) -> None:
        """Let them deliver what is left."""
        for worker in self.workers.values():
            worker.finish()

    def are_done(self) -> bool:
        """Whether all have ended, or hang."""
        return all(worker.is_done or worker.overdue() for worker in self.workers.values())

    def pending(self) -> dict[str, int]:
        """Return the records left, by tracker."""
        return {name: worker.pending() for name, worker in self.workers.items() if not worker.is_done}

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent in each SDK, on its own thread."""
        return {name: worker.seconds for name, worker in self.workers.items()}

    def stop(self) -> None:
        """Leave those behind that are not done."""
        for worker in self.workers.values():
            worker.stop()
        if all(worker.join(1.0 if worker.is_done else 0.0) for worker in self.workers.values()):
            self._reader.close()
            self._store.close()

    def _make_worker(self, tracker: Any) -> Worker:
        return Worker(
            self._run,
            tracker.sink_name,
            lambda: tracker,
            reader=self._reader,
            store=self._store,
            status=self._status,
            deadlines=self._deadlines,
        )

    @staticmethod
    def _adopt(tracker: Any) -> None:
        if tracker._initialized:
            try:
                tracker.adopt()
            except Exception as error:
                logger.warning("%s could not be made the current run of this thread: %s", tracker.sink_name, error)


def _guard_setup(tracker: Any) -> None:
    """Let `setup` run on the tracker's thread alone: called by a callback's method, it could hang the loop."""
    if "setup" in vars(tracker):
        return
    bound = tracker.setup

    def setup(*args: Any, **kwargs: Any) -> Any:
        if not threading.current_thread().name.startswith("deliver-"):
            raise TrackerError(f"{type(tracker).__name__} is not open (yet); it is being tried on its own thread")
        return bound(*args, **kwargs)

    tracker.setup = setup
