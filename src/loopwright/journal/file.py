"""Hold the journal's file: whose it is, which kind, where it stands; and statements while the disk refuses them.

open ──▶ lock ──▶ file ──▶ where does it stand?         damaged: set aside, a new one begun
commit ──▶ written                                       the disk refuses: kept in memory, said once, tried again
close ──▶ what waits is tried a last time, or named as lost
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopwright._support.env import read_choice
from loopwright._support.files import sync_file
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import JournalError, JournalNotFound
from loopwright.journal.filesystem import is_network_filesystem
from loopwright.journal.lines import LineWriter
from loopwright.journal.ownership import Ownership
from loopwright.journal.reader import JournalReader, find_journal
from loopwright.journal.schema import JOURNAL_NAME, LINES_NAME, Operation
from loopwright.journal.writer import JournalWriter, SqliteWriter, bring_tail_in
from loopwright.records import Status

logger: Logger = get_logger(__name__)

LOCK_NAME = "journal.lock"
RETRY_SECONDS = 10.0
_DISK_ERRORS = (sqlite3.Error, OSError)
_DAMAGE = ("malformed", "not a database", "is not a journal", "no such table", "already exists", "is damaged")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a journal stands when it is opened.

    Attributes:
        position: The number of its newest record.
        last_attempt: The number of its newest attempt.
        left_open: Attempts that have no end; whoever wrote them is gone.
    """

    position: int = 0
    last_attempt: int = 0
    left_open: Sequence[int] = ()


class JournalFile:
    """The journal's file in `output_dir`, of one writer at a time. Not to be shared by threads.

    Arguments:
        output_dir: The directory; made where there is none.

    Attributes:
        opening: The statements that a new file must begin with where the present one is lost.
        unwritten: The statements that wait for the disk.
        is_open: Whether it is held, be it only in memory.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.opening: list[Operation] = []
        self.unwritten: list[Operation] = []
        self.is_open: bool = False
        self._writer: JournalWriter | None = None
        self._ownership = Ownership(output_dir / LOCK_NAME, "writing")
        self._retry_at = 0.0
        self._is_failing = False

    @property
    def path(self) -> Path:
        """The file."""
        return self._writer.path if self._writer is not None else self._choose()

    def open(self) -> Standing:
        """Take the file, and return where it stands.

        Raises:
            JournalBusy: another process writes it.
            JournalError: a newer Loopwright wrote it.
        """
        try:
            try:
                self._begin()
            except _DISK_ERRORS as error:
                self._note_failure(error)
            standing = self._read_standing()
        except BaseException:
            self.close()
            raise
        self.is_open = True
        return standing

    def commit(self, operations: Sequence[Operation]) -> None:
        """Write all of `operations` after what waits; keep them in memory where the disk refuses."""
        if self._writer is None or self.unwritten:
            self.unwritten.extend(operations)
        elif operations:
            try:
                self._writer.commit(operations)
            except _DISK_ERRORS as error:
                self.unwritten.extend(operations)
                self._note_failure(error)
        if self.unwritten and time.monotonic() >= self._retry_at:
            self._write_what_waits()

    def sync(self) -> None:
        """Bring what was written onto the disk; a disk that refuses is named."""
        if self._writer is None:
            return
        try:
            self._writer.sync()
        except _DISK_ERRORS as error:
            self._note_failure(error)
        else:
            if not self.unwritten:
                self._note_success()
        if self.unwritten and time.monotonic() >= self._retry_at:
            self._write_what_waits()

    def close(self) -> None:
        """Try a last time to write what waits, bring everything onto the disk, and let the file go."""
        if self.unwritten:
            self._retry_at = 0.0
            self.commit([])
        if self.unwritten:
            logger.error("%s: %d entries could not be written and are lost", self.output_dir, len(self.unwritten))
        if self._writer is not None:
            _try(self._writer.sync)
            _try(self._writer.close)
        self._ownership.release()
        self._writer, self.unwritten, self.is_open, self._is_failing = None, [], False, False

    # Opening

    def _begin(self) -> JournalWriter:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if not self._ownership.is_held:
            self._ownership.acquire()
        path = self._choose()
        try:
            self._writer = _writer(path)
        except (sqlite3.DatabaseError, JournalError) as error:
            if not _is_damage(error):
                raise
            _set_aside(path, error)
            self._writer = _writer(self._choose())
        return self._writer

    def _choose(self) -> Path:
        if (found := find_journal(self.output_dir)) is not None:
            return found  # whatever is wanted: readers look at one file
        wanted = read_choice("LOOPWRIGHT_JOURNAL", ("sqlite", "lines"))
        is_network = wanted is None and is_network_filesystem(self.output_dir)
        if is_network:
            warn_once(
                logger,
                f"{self.output_dir} lies on a network filesystem: the journal is {LINES_NAME} there, which is safe "
                "on it and slower",
            )
        return self.output_dir / (LINES_NAME if is_network or wanted == "lines" else JOURNAL_NAME)

    def _read_standing(self) -> Standing:
        is_safe = self._ownership.is_held
        standing = Standing()
        try:
            with JournalReader(self.output_dir) as reader:
                reader.check()
                attempts = reader.attempts()
                left_open = [attempt.number for attempt in attempts if attempt.status is Status.RUNNING]
                standing = Standing(reader.last_sequence(), attempts[-1].number if attempts else 0, left_open)
        except JournalNotFound:
            pass  # none yet, the disk being full, say
        except JournalError as error:
            if error.__cause__ is None and not _is_damage(error):
                raise  # a newer Loopwright's
            is_safe = is_safe and _is_damage(error) and self._replace(error)
        # A number that is taken already would overwrite what has it.
        return standing if is_safe else Standing(number_beyond(), number_beyond(), standing.left_open)

    # When the disk refuses

    def _write_what_waits(self) -> None:
        try:
            writer = self._writer or self._begin()
            writer.commit(self.unwritten)
        except (*_DISK_ERRORS, JournalError) as error:
            self._note_failure(error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        self._note_success()
        self.unwritten = []

    def _note_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            number = len(self.unwritten)
            written = f": {number} entries written" if number else ""  # what waited may have had room in the tail
            logger.warning("%s takes records again%s", self.path, written)

    def _note_failure(self, error: BaseException) -> None:
        if self._writer is not None and _is_damage(error):
            self._replace(error)
            return
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "the journal in %s can't be written (%s): records are held in memory, to be written when that works "
                "again, tried every %.0f s",
                self.output_dir,
                error,
                RETRY_SECONDS,
            )

    def _replace(self, error: BaseException) -> bool:
        """Set a damaged file aside, and return whether that worked; the next commit begins a new one."""
        path, writer, self._writer = self.path, self._writer, None
        newest: list[Operation] = []
        if writer is not None:
            newest = writer.newest_records()
            _try(writer.close)
        self.unwritten = [*self.opening, *newest, *self.unwritten]
        self._retry_at = 0.0
        return _try(lambda: _set_aside(path, error))


def number_beyond() -> int:
    """Return a number beyond all that any journal has given: none gives a million in a second."""
    return time.time_ns() // 1000


def _writer(path: Path) -> JournalWriter:
    return LineWriter(path) if path.name == LINES_NAME else SqliteWriter(path)


def _is_damage(error: BaseException) -> bool:
    text = str(error)
    return any(words in text for words in _DAMAGE)


def _set_aside(path: Path, error: BaseException) -> None:
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    for ending in ("-tail", "-wal", "-shm", ""):  # the file last: a new one would do away with the log that it finds
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    logger.warning("%s is damaged (%s): set aside as %s, and a new one begun", path, error, aside.name)


def _try(action: Callable[[], None]) -> bool:
    try:
        action()
    except _DISK_ERRORS as error:
        logger.warning("the journal: %s", error)
        return False
    return True


def sync_beside(output_dir: Path) -> None:
    """Bring what was committed to the journal in `output_dir` onto the disk, from any thread: no writer waits for it.

    Raises:
        JournalError: the newest records can't be brought into the journal.
        OSError: the disk refuses.
    """
    if (path := output_dir / JOURNAL_NAME).exists():
        try:
            bring_tail_in(path)
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error
    # Never the SQLite file itself: closing another descriptor of it would drop the locks that SQLite holds. What is in
    # there has been synced on its way from the log.
    for name in (f"{JOURNAL_NAME}-wal", LINES_NAME):
        with contextlib.suppress(FileNotFoundError):
            sync_file(output_dir / name)
