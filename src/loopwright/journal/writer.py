"""Commit statements to `journal.db`, a SQLite file, and its tail.

A statement is safe from a kill of the process once `commit` returns, and from a loss of power once `sync` does. One
writer, on one thread; any number of readers, in this process or another.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from loopwright._support.files import sync_file
from loopwright._support.log import Logger, get_logger
from loopwright.journal.ownership import Connection, transaction
from loopwright.journal.schema import STATEMENTS, Operation, migrate
from loopwright.journal.tail import Tail, bring_content_in, bring_in, place_of, tail_of

logger: Logger = get_logger(__name__)

# After so long a record is in the SQLite file itself, for programs that know of no tail.
_SECONDS_IN_TAIL = 10.0
_PAGE = 4096
# Written to the write-ahead log between two clean-ups, where nobody else does it: 17 MB or more.
_PAGES_PER_CLEAN_UP = 4096
_PAGES_OF_A_COMMIT = 2
# Pages in the log from which on the loop is made to wait for a clean-up.
_MOST_PAGES = 8192
_BUSY_SECONDS = 5.0
# How long the loop waits for a reader that brings the tail in, which takes milliseconds; one that was stopped in the
# middle of that must not hold a training up for long.
_WRITERS_PATIENCE = 1.0


class JournalWriter(Protocol):
    """What the recorder needs of either kind of journal."""

    path: Path

    def commit(self, operations: Sequence[Operation]) -> None:
        """Write all of `operations`, or none."""
        ...

    def sync(self) -> None:
        """Return when everything that was committed is on the disk."""
        ...

    def newest_records(self) -> list[Operation]:
        """Return the records that came last, as far as they are kept beside the file, which may be damaged."""
        ...

    def close(self) -> None:
        """Close the file; nothing more is written."""
        ...


class SqliteWriter:
    """Writes a journal's SQLite file: records by way of its tail, all else at once.

    Arguments:
        path: The file; made where there is none. What a kill left in its tail is brought in.

    Raises:
        sqlite3.Error: it can't be opened, or isn't a journal.
        JournalError: a newer Loopwright wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self._tail: Tail | None = None
        self._takes_tail = True
        self._bring_in_at = 0.0
        self._new_pages = 0
        self._clean_up: threading.Thread | None = None
        self._connection = connect_for_writing(path, _WRITERS_PATIENCE)
        try:
            migrate(self._connection)
            if tail_of(path).exists():
                bring_in(self._connection, tail_of(path))
        except BaseException:
            self._connection.close()
            raise

    def commit(self, operations: Sequence[Operation]) -> None:
        """Write all of `operations`, or none.

        Raises:
            sqlite3.Error: the disk is full, or the file damaged.
        """
        for name, _ in operations:
            if name != "record":
                break
        else:
            if self._append(operations):
                return
        self._commit_now(operations)

    def sync(self) -> None:
        """Bring everything onto the disk, and the write-ahead log into the file."""
        if self._tail is not None:
            self._commit_now(())
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists():  # SQLite locks the file and never the log: another descriptor of it does no harm
            sync_file(log)
        # PASSIVE waits for no reader. It syncs too, but only what it finds to copy.
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def newest_records(self) -> list[Operation]:
        """Return the records since the last statement of another kind, as far as the tail has them."""
        return [] if self._tail is None else self._tail.records()

    def close(self) -> None:
        """Close the file. In a forked child the inherited connection is left alone."""
        if self._pid != os.getpid():
            return
        try:
            if self._tail is not None:
                self._commit_now(())
            tail_of(self.path).unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as error:  # the next who opens or reads the journal does it
            logger.debug("%s stays: %s", tail_of(self.path), error)
        finally:
            if self._tail is not None:
                self._tail.close()
            if self._clean_up is not None:
                self._clean_up.join()
            self._connection.close()

    # Records

    def _append(self, records: Sequence[Operation]) -> bool:
        """Append to the tail; return whether that was possible."""
        tail = self._tail or self._begin_tail()
        if tail is None:
            return False
        now = time.monotonic()
        if now >= self._bring_in_at:
            self._bring_in_at = now + _SECONDS_IN_TAIL
            self._try_to_empty(tail)
        if tail.append(records):
            return True
        self._empty(tail)
        return tail.append(records)

    def _try_to_empty(self, tail: Tail) -> None:
        """Empty the tail unless another process writes, or the disk is full: it has room still, and is as safe."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            with contextlib.suppress(sqlite3.OperationalError):
                self._empty(tail)
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {round(_WRITERS_PATIENCE * 1000)}")

    def _empty(self, tail: Tail) -> None:
        self._commit_now(())
        self._new_pages += tail.place.offset // _PAGE
        tail.begin_part()

    def _begin_tail(self) -> Tail | None:
        if not self._takes_tail:
            return None
        place = place_of(self._connection)
        try:
            self._tail = Tail(tail_of(self.path), place.journal, place.part + 1)
        except OSError as error:
            self._takes_tail = False
            logger.debug("%s: no tail, so each record is committed by itself: %s", self.path, error)
            return None
        self._bring_in_at = time.monotonic() + _SECONDS_IN_TAIL
        return self._tail

    # The SQLite file

    def _commit_now(self, operations: Sequence[Operation]) -> None:
        """Write to the file itself: first what is in the tail, then all of `operations`."""
        with transaction(self._connection):
            if self._tail is not None:
                self._bring_in(self._tail)
            for name, values in operations:
                self._connection.execute(STATEMENTS[name], values)
        if operations and self._tail is not None:
            self._tail.begin_part()  # `newest_records` knows nothing of what was said after them
        self._new_pages += _PAGES_OF_A_COMMIT
        if self._new_pages >= _PAGES_PER_CLEAN_UP:
            self._clean_up_beside()

    def _bring_in(self, tail: Tail) -> None:
        if bring_content_in(self._connection, tail.content()) != tail.place:
            logger.error("%s is damaged: some of the newest records are lost", tail_of(self.path))

    def _clean_up_beside(self) -> None:
        """Keep the write-ahead log short, off the loop's thread: an fsync takes 4 to 200 ms."""
        if self._clean_up is None or not self._clean_up.is_alive():
            self._new_pages = 0
            target = clean_up_write_ahead_log
            self._clean_up = threading.Thread(target=target, args=(self.path,), name="journal-clean-up", daemon=True)
            self._clean_up.start()


def bring_tail_in(path: Path) -> None:
    """Bring the tail of the journal at `path` in, from any thread or process.

    Raises:
        sqlite3.Error: the journal doesn't take it.
        OSError: the tail can't be read.
    """
    if tail_of(path).exists():
        with contextlib.closing(connect_for_writing(path)) as connection:
            bring_in(connection, tail_of(path))


def connect_for_writing(path: Path, patience: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """Return a connection to a database with a write-ahead log that nobody folds in by himself.

    Arguments:
        path: The file; made where there is none.
        patience: Seconds to wait for others that write.
    """
    connection = sqlite3.connect(
        path, timeout=patience, isolation_level=None, check_same_thread=False, factory=Connection
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        # A kill loses nothing that was committed; a loss of power loses at most what came after the last sync.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
    except BaseException:
        connection.close()
        raise
    return connection


def clean_up_write_ahead_log(path: Path) -> None:
    """Bring the write-ahead log of `path` into it, as far as no reader stands in the way.

    SQLite begins the log anew only where it finds all of it brought in. Beside a loop that commits all the time there
    is always a little more, so the log would grow for ever: a long one is finished while the writer waits, which takes
    the milliseconds of one sync.
    """
    try:
        connection = sqlite3.connect(path, timeout=0.1, isolation_level=None, factory=Connection)
        try:
            _, num_pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if num_pages > _MOST_PAGES:
                connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:  # tried again before long, and at the next save
        logger.debug("%s: the write-ahead log could not be brought in: %s", path, error)
