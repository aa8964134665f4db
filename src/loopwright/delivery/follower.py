"""Deliver a journal: once (`loopwright sync`), or beside a training that goes on (`loopwright sync --follow`).

Beside a training, standard input is the training's end of a pipe. A line "drain" asks to deliver and close what is
there and to stay, for an evaluation that may follow; "end" asks to leave after that; its closing says that the training
is gone. Standard output is the way back, a line of JSON each second:

    {"trackers": {"mlflow": {"pending": 3, "error": null}}, "hung": [], "drains": 0, "notes": []}

Notes are what trackers warned of: somebody sees it there.

What SDKs print goes to standard error, and they find an empty standard input, so nothing ever prompts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TextIO

from loopwright._support.log import Logger, get_logger
from loopwright.delivery.sink import Sink
from loopwright.delivery.store import DeliveryStore, standing_of
from loopwright.delivery.worker import Deadlines, Worker
from loopwright.errors import JournalError
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.writer import clean_up_write_ahead_log
from loopwright.records import Run, Status

logger: Logger = get_logger(__name__)

MakeSink = Callable[[SinkEntry], Sink]

_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 0.05
_REPORT_SECONDS = 1.0
_CLEAN_UP_SECONDS = 10.0
# Having nothing to do for so long, it leaves; it is started again when there is.
_IDLE_SECONDS = 120.0
EXIT_DONE, EXIT_LEFTOVERS, EXIT_HUNG = 0, 1, 75


class Channel:
    """The two pipes to the training; taken away from standard input and output, which SDKs use."""

    def __init__(self) -> None:
        self._input = os.fdopen(os.dup(0), "r", encoding="utf-8")
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self.is_ending = threading.Event()
        self.is_cut = threading.Event()
        self.num_drains: int = 0
        threading.Thread(target=self._listen, name="listen-to-training", daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; where nobody reads it any more, that is noted."""
        try:
            self._output.write(json.dumps(message) + "\n")
            self._output.flush()
        except (OSError, ValueError):
            self.is_cut.set()

    def _listen(self) -> None:
        try:
            for line in self._input:
                if line.strip() == "end":
                    self.is_ending.set()
                elif line.strip() == "drain":
                    self.num_drains += 1
        except (OSError, ValueError):
            pass
        self.is_cut.set()


class _Notes(logging.Handler):
    """Keeps what trackers warn of, until it is sent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []
        logging.getLogger("loopwright.trackers").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self._texts.append(record.getMessage())

    def take(self) -> list[str]:
        """Return what has come since the last call."""
        texts, self._texts = self._texts, []
        return texts


class Follower:
    """Delivers what the journal in `output_dir` holds, with a worker for each run and tracker.

    Arguments:
        output_dir: Where the journal is.
        make_sink: Makes a tracker of its entry in the journal.
        trackers: Only those of these names.
        channel: To the training; None to deliver what is there and end.
        close_seconds: How long to go on after the training has ended.
        deadlines: For calls into SDKs.
        on_progress: Called about twice a second with the records left, by tracker.
    """

    def __init__(  # noqa: PLR0913 -- all but two have a default
        self,
        output_dir: Path | str,
        make_sink: MakeSink,
        *,
        trackers: Collection[str] | None = None,
        channel: Channel | None = None,
        close_seconds: float = 60.0,
        deadlines: Deadlines | None = None,
        on_progress: Callable[[dict[str, int]], None] | None = None,
    ) -> None:
        self.output_dir: Path = Path(output_dir)
        self.workers: dict[tuple[str, str], Worker] = {}
        self.hung: list[str] = []
        self._make_sink = make_sink
        self._trackers = trackers
        self._channel = channel
        self._close_seconds = close_seconds
        self._deadlines = deadlines or Deadlines()
        self._on_progress = on_progress
        self._reader = JournalReader(output_dir)
        self._store = DeliveryStore(output_dir)
        self._training = (platform.node(), os.getppid())
        self._last_report = self._last_clean_up = self._busy_at = time.monotonic()
        self._num_drained = 0
        self._seen: tuple[tuple[int, ...], int] | None = None
        self._notes = _Notes() if channel is not None else None

    def run(self) -> int:
        """Deliver until there is nothing left or the time is over; return the exit status.

        A tracker whose call misses its deadline is named in `hung`. Beside a training the process has to end then,
        whatever its threads are doing: that is the caller's part.
        """
        if self._channel is None:
            return self._run_once()
        while True:
            self._start_workers()
            self._report()
            if self._find_hung():
                self._report(force=True)
                return EXIT_HUNG
            if self._is_asked_to_leave(self._channel) or self._is_idle():
                break
            is_draining = self._drain(self._channel)
            time.sleep(_WAIT_SECONDS if is_draining else _LOOK_SECONDS)
        until = time.monotonic() + self._close_seconds
        while not self._finish() and time.monotonic() < until and not self._find_hung():
            self._report()
            time.sleep(_WAIT_SECONDS)
        self._report(force=True)
        return EXIT_HUNG if self.hung else EXIT_DONE if self.count_left() == 0 else EXIT_LEFTOVERS

    def _is_asked_to_leave(self, channel: Channel) -> bool:
        if os.getppid() != self._training[1]:  # forked children of the training may hold the pipe open
            channel.is_cut.set()
        return channel.is_ending.is_set() or channel.is_cut.is_set()

    def _is_idle(self) -> bool:
        if not self._are_done():
            self._busy_at = time.monotonic()
        return time.monotonic() - self._busy_at > _IDLE_SECONDS

    def _drain(self, channel: Channel) -> bool:
        """Do what a drain asks for; return whether one is under way."""
        asked = channel.num_drains
        if asked == self._num_drained:
            return False
        if not self._finish():
            return True
        self._num_drained = asked
        self._report(force=True)
        return False

    def _finish(self) -> bool:
        """Let all runs be delivered and closed; return whether they are."""
        self._start_workers()
        for worker in self.workers.values():
            worker.finish()
        return self._are_done()

    def _run_once(self) -> int:
        while not self._finish():
            if self._on_progress is not None:
                self._on_progress(self.left_by_tracker())
            self._find_hung()
            time.sleep(0.2)
        return EXIT_HUNG if self.hung else EXIT_DONE if self.count_left() == 0 else EXIT_LEFTOVERS

    def left_by_tracker(self) -> dict[str, int]:
        """Return the records that each tracker has still to confirm."""
        left: dict[str, int] = {}
        for (_, tracker), worker in self.workers.items():
            left[tracker] = left.get(tracker, 0) + worker.pending()
        return left

    def count_left(self) -> int:
        """Return how many records are left in all."""
        return sum(self.left_by_tracker().values())

    def _are_done(self) -> bool:
        return all(worker.is_done or worker.tracker in self.hung for worker in self.workers.values())

    def _find_hung(self) -> bool:
        for worker in self.workers.values():
            call = worker.overdue()
            if call is not None and worker.tracker not in self.hung:
                self.hung.append(worker.tracker)
                worker.stop()
                self._store.note_failure(worker.run.id, worker.tracker, f"no answer in time ({call})")
                logger.error("%s: no answer in time (%s)", worker.tracker, call)
        return bool(self.hung)

    # Workers

    def _start_workers(self) -> None:
        # Asked for many times a second; only a change of the journal, or a worker's end, can call for another worker.
        seen = (self._reader.change_counter(), sum(worker.is_done for worker in self.workers.values()))
        if seen == self._seen:
            return
        self._seen = seen
        for run in self._reader.runs():
            if not self._is_ours(run):
                continue
            for entry in self._reader.sinks(run.id):
                if self._is_wanted(entry):
                    self._start_worker(run, entry)

    def _is_ours(self, run: Run) -> bool:
        """Return whether to deliver the run: beside a training its own alone, else all."""
        if self._channel is None:
            return True
        attempts = self._reader.attempts(run.id)
        return bool(attempts) and (attempts[-1].host, attempts[-1].pid) == self._training

    def _is_wanted(self, entry: SinkEntry) -> bool:
        if self._trackers is not None and entry.tracker not in self._trackers:
            return False
        if self._channel is not None and entry.place != "delivery":
            return False
        if any(worker.tracker == entry.tracker and not worker.is_done for worker in self.workers.values()):
            return False  # one run after the other
        present = self.workers.get((entry.run_id, entry.tracker))
        if present is not None:
            is_worth_it = present.error is None or self._reader.last_sequence(entry.run_id) > present.gave_up_at
            return present.is_done and is_worth_it and present.pending() > 0
        delivered, left = standing_of(self._reader, entry)
        is_expected = delivered.cursor == 0 or bool(entry.options.get("attends"))
        return left > 0 or not delivered.was_closed or (self._channel is not None and is_expected)

    def _start_worker(self, run: Run, entry: SinkEntry) -> None:
        worker = Worker(
            run,
            entry.tracker,
            lambda: self._make_sink(entry),
            reader=self._reader,
            store=self._store,
            status=lambda: self._status(run.id),
            deadlines=self._deadlines,
            # What a killed training has left drains what is there, its SDKs loaded or not yet: no reason to give up.
            waits_for_others=self._channel is not None,
        )
        self.workers[(run.id, entry.tracker)] = worker
        worker.start()

    def _status(self, run_id: str) -> Status:
        status = self._reader.attempts(run_id)[-1].status
        is_alone = self._channel is None or self._channel.is_cut.is_set()
        return Status.KILLED if status is Status.RUNNING and is_alone else status

    # To the training

    def _report(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self._channel is None or (not force and now - self._last_report < _REPORT_SECONDS):
            return
        self._last_report = now
        trackers: dict[str, Any] = {}
        for (_, name), worker in self.workers.items():
            trackers[name] = {"pending": worker.pending(), "error": worker.error}
        notes = self._notes.take() if self._notes is not None else []
        self._channel.say({"trackers": trackers, "hung": self.hung, "drains": self._num_drained, "notes": notes})
        if now - self._last_clean_up > _CLEAN_UP_SECONDS and self._reader.path.suffix == ".db":
            self._last_clean_up = now
            clean_up_write_ahead_log(self._reader.path)


def leave(status: int) -> None:
    """End this process at once: a thread that hangs in an SDK would keep it."""
    streams: tuple[TextIO, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def follow(
    output_dir: Path | str,
    make_sink: MakeSink,
    *,
    trackers: Collection[str] | None,
    close_seconds: float,
    deadlines: Deadlines,
) -> None:
    """Deliver beside the training that started this process, and end with it. Never returns."""
    channel = Channel()
    try:
        status = Follower(
            output_dir,
            make_sink,
            trackers=trackers,
            channel=channel,
            close_seconds=close_seconds,
            deadlines=deadlines,
        ).run()
    except JournalError as error:
        logger.error("delivery: %s", error)
        status = EXIT_LEFTOVERS
    leave(status)
