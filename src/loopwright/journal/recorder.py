"""Keep a run's journal: what a Trainer talks to.

A record is safe once `record` returns. Where the disk fails, records are held in memory, which is said loudly, and
written as soon as the disk takes them again: training never stops for its journal.
"""

from __future__ import annotations

import atexit
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import read_choice
from loopwright._support.log import get_logger, warn_once
from loopwright.errors import JournalBusy, JournalError
from loopwright.journal.filesystem import is_network_filesystem
from loopwright.journal.lines import LineWriter
from loopwright.journal.ownership import Ownership
from loopwright.journal.reader import JournalReader, SinkEntry, find_journal
from loopwright.journal.repetition import Awaited, Difference, Repetition, rewinds_to
from loopwright.journal.schema import JOURNAL_NAME, LINES_NAME, Operation
from loopwright.journal.values import encode
from loopwright.journal.writer import JournalWriter, SqliteWriter
from loopwright.records import Decision, Kind, Run, Status

logger = get_logger(__name__)

LOCK_NAME = "journal.lock"
_RETRY_SECONDS = 10.0
_DISK_ERRORS = (sqlite3.Error, OSError)


class Recorder:
    """Writes the journal in `output_dir`; one at a time in all processes.

    Arguments:
        output_dir: The directory; made where there is none.

    Attributes:
        position: The number of the newest record.
        attempt: Number of the attempt under way or last ended; None before the first.
        is_writing: Whether an attempt is under way.
        unwritten: How many statements wait in memory for the disk.
    """

    # Of this process, by directory: an idle one makes way for the next Trainer's.
    _open: ClassVar[dict[Path, Recorder]] = {}

    def __init__(self, output_dir: Path | str) -> None:
        self.output_dir = Path(output_dir).resolve()
        self.position = 0
        self.attempt: int | None = None
        self.run: Run | None = None
        self.is_writing = False
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._writer: JournalWriter | None = None
        self._ownership = Ownership(self.output_dir / LOCK_NAME, "writing")
        self._last_attempt = 0
        self._unwritten: list[Operation] = []
        self._opening: list[Operation] = []  # what a new file must begin with if the present one is lost
        self._decisions: list[Operation] = []
        self._retry_at = 0.0
        self._repetition = Repetition()
        self._has_diverged = False
        self.is_deterministic = False

    # Life

    def open(self) -> None:
        """Take the journal, and close attempts that a kill left open.

        Raises:
            JournalBusy: another process, or another training in this one, writes it.
            JournalError: a newer Loopwright wrote it.
        """
        if self._writer is not None or self._unwritten:
            return
        before = self._open.get(self.output_dir)
        if before is not None and before is not self and before._pid == os.getpid():
            if before.is_writing:
                raise JournalBusy(
                    f"{self.output_dir}: another training of this process writes its journal: give each its own "
                    "output_dir"
                )
            before.close()
        self._pid = os.getpid()
        self._ownership = Ownership(self.output_dir / LOCK_NAME, "writing")
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self._ownership.acquire()
            self._open_writer()
            self._take_over()
        except JournalError:
            self.close()
            raise
        except _DISK_ERRORS as error:
            self._note_failure(error)
        self._open[self.output_dir] = self
        _close_at_exit()

    def close(self) -> None:
        """End what is under way, bring everything onto the disk, and let the journal go."""
        if self._pid != os.getpid():
            self._forget_inherited()
            return
        if self.is_writing:
            self.end_attempt(Status.INTERRUPTED, "the program left in the middle")
        with self._lock:
            if self._unwritten:
                self._retry_at = 0.0
                self._commit([])
            if self._unwritten:
                logger.error("%s: %d entries could not be written and are lost", self.output_dir, len(self._unwritten))
            if self._writer is not None:
                self._try(self._writer.sync)
                self._try(self._writer.close)
                self._writer = None
            self._ownership.release()
            if self._open.get(self.output_dir) is self:
                del self._open[self.output_dir]

    @property
    def unwritten(self) -> int:
        """How many statements wait in memory for the disk."""
        return len(self._unwritten)

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._writer.path if self._writer is not None else self.output_dir / JOURNAL_NAME

    # Runs and attempts

    def begin_attempt(
        self,
        run: Run,
        *,
        purpose: str,
        first_step: int = 0,
        resumed_at: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> int:
        """Begin an attempt of `run`, and return its number.

        Arguments:
            run: Which; recorded where it is new.
            purpose: "training" or "evaluation".
            first_step: Optimizer updates done.
            resumed_at: What `whereabouts` returned at the checkpoint: what was recorded after it is awaited again.
            versions: Versions by package.
        """
        self.open()
        if self.is_writing:
            self.end_attempt(Status.COMPLETED)
        self._repetition = self._await_again(run.id, resumed_at, first_step)
        self._has_diverged = False
        self._last_attempt += 1
        self.run, self.attempt, self.is_writing = run, self._last_attempt, True
        trial = None if run.trial_parameters is None else encode(run.trial_parameters)[0]
        self._opening = [
            (
                "run",
                (run.id, run.created_at, run.name, run.project, run.parent_id, run.parent_step, run.trial_name, trial),
            ),
            (
                "attempt",
                (
                    self.attempt,
                    run.id,
                    purpose,
                    time.time(),
                    first_step,
                    platform.node(),
                    os.getpid(),
                    encode(versions or {})[0],
                    encode(run.arguments)[0],
                    encode(run.parameters)[0],
                ),
            ),
        ]
        self._commit(list(self._opening))
        return self.attempt

    def add_sink(self, entry: SinkEntry) -> None:
        """Record that a run reports to a tracker."""
        values = (
            entry.run_id,
            entry.tracker,
            entry.class_path,
            encode(entry.options)[0],
            encode(entry.environment)[0],
            entry.place,
            int(entry.wants_checkpoints),
        )
        self._opening.append(("sink", values))
        self._commit([("sink", values)])

    def end_attempt(self, status: Status, reason: str | None = None) -> None:
        """Record how the attempt under way ended, and sync."""
        if not self.is_writing or self._is_inherited():
            return
        if status.is_success:
            # The training is over, and these did not come again.
            self._drop(self._repetition.give_up())
        self.is_writing = False
        self._commit([("end", (time.time(), str(status), reason, self.attempt))])
        self.sync()

    # Records

    def record(
        self,
        kind: Kind,
        step: int,
        values: Mapping[str, Any],
        *,
        added: Collection[str] = (),
        tracker: str | None = None,
    ) -> int:
        """Append a record and return its number; that of the old one where a resumed run repeats it.

        Arguments:
            kind: What it holds.
            step: Optimizer updates done.
            values: By name. What can't be stored is left out, and named once.
            added: Those of them that callbacks added.
            tracker: The one tracker that it is for.
        """
        if self._is_inherited():
            return self.position
        with self._lock:
            if self._repetition:
                found = self._repetition.take(kind, step, values, frozenset(added), tracker)
                if isinstance(found, int):
                    return found
                if found is not None:
                    self._diverge(found)
            text, left_out = encode(values)
            for entry in left_out:
                warn_once(logger, f"the journal can't hold {entry}: left out from here on")
            self._commit([self._as_operation(kind, step, text, ",".join(added) or None, tracker)])
            return self.position

    def decide(self, decision: Decision) -> None:
        """Record who set a flag; it is written with the next record, save or end."""
        if self._is_inherited() or not self.is_writing:
            return
        values = {
            "callback": decision.callback,
            "event": decision.event,
            "flag": decision.flag,
            "value": decision.value,
        }
        with self._lock:
            if self._repetition:
                found = self._repetition.take(Kind.DECISION, decision.step, values, frozenset(), None)
                if isinstance(found, int):
                    return
            self._decisions.append(self._as_operation(Kind.DECISION, decision.step, encode(values)[0], None, None))

    def sync(self) -> int:
        """Bring everything onto the disk, and return the position."""
        if self._is_inherited():
            return self.position
        with self._lock:
            self._commit([])
            if self._writer is not None:
                self._try(self._writer.sync)
            return self.position

    def _as_operation(self, kind: Kind, step: int, text: str, added: str | None, tracker: str | None) -> Operation:
        self.position += 1
        return "record", (self.position, self.attempt, kind.value, step, time.time(), text, added, tracker)

    # What a resumed run says again

    def whereabouts(self) -> dict[str, Any]:
        """Return the position as a checkpoint keeps it: the newest record, and those before it still awaited again."""
        return {"position": self.position, "awaited": self._repetition.sequences()}

    def _await_again(self, run_id: str, resumed_at: Mapping[str, Any] | None, first_step: int) -> Repetition:
        if resumed_at is None or self._writer is None:
            return Repetition()
        position, earlier = resumed_at["position"], set(resumed_at.get("awaited", ()))
        again = (Kind.LOG, Kind.PREDICTION, Kind.DECISION, Kind.CHECKPOINT, Kind.ARTIFACT)
        with JournalReader(self.output_dir) as reader:
            rows = reader.raw_records(run_id, after=min([position + 1, *earlier]) - 1, kinds=again)
        awaited = [
            record for row in rows if (record := Awaited(*row)).sequence > position or record.sequence in earlier
        ]
        # The checkpoint that the run goes on from was recorded after its position was taken; it is not made again.
        return Repetition(
            record for record in awaited if not (record.kind == Kind.CHECKPOINT and record.step <= first_step)
        )

    def _diverge(self, difference: Difference) -> None:
        self._drop(self._repetition.give_up())
        if self._has_diverged:
            return
        self._has_diverged = True
        if self.is_deterministic or not difference.is_small:
            logger.warning("diverged at step %d: %s; the new values count", difference.step, difference.text)
        else:
            logger.info("differs by rounding from step %d on: %s", difference.step, difference.text)

    def _drop(self, records: list[Awaited]) -> None:
        if not records:
            return
        operations: list[Operation] = [("drop", (self.attempt, record.sequence)) for record in records]
        step = rewinds_to(records)
        if step is not None:
            text, _ = encode({"from_step": step})
            operations.append(self._as_operation(Kind.REWIND, step, text, None, None))
        self._commit(operations)

    # The file

    def _commit(self, operations: list[Operation]) -> None:
        """Write `operations` after all that waits; keep them in memory where the disk refuses."""
        if self._is_inherited():
            return
        with self._lock:
            if self._decisions:
                operations, self._decisions = [*self._decisions, *operations], []
            if self._unwritten:
                self._unwritten.extend(operations)
                if time.monotonic() >= self._retry_at:
                    self._write_what_waits()
                return
            if not operations:
                return
            if self._writer is None:
                self._unwritten.extend(operations)
                return
            try:
                self._writer.commit(operations)
            except _DISK_ERRORS as error:
                self._unwritten.extend(operations)
                self._note_failure(error)

    def _write_what_waits(self) -> None:
        try:
            writer = self._writer or self._reopen()
            writer.commit(self._unwritten)
        except (*_DISK_ERRORS, JournalError) as error:
            self._note_failure(error)
            return
        logger.warning("%s takes records again: %d entries written", self.path, len(self._unwritten))
        self._unwritten = []

    def _reopen(self) -> JournalWriter:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if not self._ownership.is_held:
            self._ownership.acquire()
        writer = self._open_writer()
        if self._opening:
            writer.commit(self._opening)
        return writer

    def _open_writer(self) -> JournalWriter:
        path = self._choose_file()
        try:
            self._writer = _writer(path)
        except (sqlite3.DatabaseError, JournalError) as error:
            if not _is_damage(error):
                raise
            self._set_aside(path, error)
            self._writer = _writer(self._choose_file())
        return self._writer

    def _choose_file(self) -> Path:
        wanted = read_choice("LOOPWRIGHT_JOURNAL", ("sqlite", "lines"))
        if wanted is None and (found := find_journal(self.output_dir)) is not None:
            return found
        is_network = wanted is None and is_network_filesystem(self.output_dir)
        if is_network:
            warn_once(
                logger,
                f"{self.output_dir} lies on a network filesystem: the journal is {LINES_NAME} there, which is safe "
                "on it and slower",
            )
        return self.output_dir / (LINES_NAME if is_network or wanted == "lines" else JOURNAL_NAME)

    def _take_over(self) -> None:
        """Read where the journal stands; whoever wrote it last is gone, so what he left open was killed."""
        try:
            with JournalReader(self.output_dir) as reader:
                self.position = reader.last_sequence()
                attempts = reader.attempts()
        except JournalError as error:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._set_aside(self._choose_file(), error)
            self._open_writer()
            return
        self._last_attempt = attempts[-1].number if attempts else 0
        left_open = [attempt for attempt in attempts if attempt.status is Status.RUNNING]
        if left_open and self._writer is not None:
            now = time.time()
            reason = "found open by the next start"
            self._writer.commit([("end", (now, str(Status.KILLED), reason, attempt.number)) for attempt in left_open])

    def _set_aside(self, path: Path, error: BaseException) -> None:
        aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
        for ending in ("", "-wal", "-shm"):
            part = path.with_name(path.name + ending)
            if part.exists():
                part.rename(aside.with_name(aside.name + ending))
        logger.warning("%s is damaged (%s): set aside as %s, and a new one begun", path, error, aside.name)

    def _note_failure(self, error: BaseException) -> None:
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        if isinstance(error, sqlite3.DatabaseError) and _is_damage(error) and self._writer is not None:
            path, writer, self._writer = self._writer.path, self._writer, None
            self._try(writer.close)
            self._try(lambda: self._set_aside(path, error))
            self._retry_at = 0.0
        warn_once(
            logger,
            f"the journal in {self.output_dir} can't be written ({error}): records are held in memory, to be written "
            f"when that works again, tried every {_RETRY_SECONDS:.0f} s",
        )

    @staticmethod
    def _try(action: Any) -> None:
        try:
            action()
        except _DISK_ERRORS as error:
            logger.warning("the journal: %s", error)

    # Forks

    def _is_inherited(self) -> bool:
        return self._pid != os.getpid()

    def _forget_inherited(self) -> None:
        if self._writer is not None:
            self._writer.close()  # which, inherited, leaves the file alone
        self._writer = None

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a journal stays with its process")


def _writer(path: Path) -> JournalWriter:
    return LineWriter(path) if path.name == LINES_NAME else SqliteWriter(path)


def _is_damage(error: BaseException) -> bool:
    text = str(error)
    return any(words in text for words in ("malformed", "not a database", "is not a journal", "no such table"))


_closes_at_exit = False


def _close_at_exit() -> None:
    global _closes_at_exit  # noqa: PLW0603 -- once in a process
    if not _closes_at_exit:
        _closes_at_exit = True
        atexit.register(_close_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget_all)


def _close_all() -> None:
    for recorder in list(Recorder._open.values()):
        recorder.close()


def _forget_all() -> None:
    for recorder in list(Recorder._open.values()):
        recorder._forget_inherited()
    Recorder._open.clear()
