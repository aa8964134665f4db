"""Commit statements to `journal.db`, a SQLite file.

A statement is safe from a kill of the process once `commit` returns, and from a loss of power once `sync` does. One
writer, on one thread; any number of readers, in this process or another.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from loopwright._support.files import sync_file
from loopwright._support.log import Logger, get_logger
from loopwright.journal.ownership import Connection
from loopwright.journal.schema import STATEMENTS, Operation, migrate

logger: Logger = get_logger(__name__)

# Commits between two clean-ups of the write-ahead log, where nobody else does it: 17 MB or more.
_COMMITS_PER_CLEAN_UP = 4096
# Pages (of 4 KB) in the log from which on the loop is made to wait for a clean-up.
_MOST_PAGES = 8192
_BUSY_SECONDS = 5.0


class JournalWriter(Protocol):
    """What the recorder needs of either kind of journal."""

    path: Path

    def commit(self, operations: Sequence[Operation]) -> None:
        """Write all of `operations`, or none."""
        ...

    def sync(self) -> None:
        """Return when everything that was committed is on the disk."""
        ...

    def close(self) -> None:
        """Close the file; nothing more is written."""
        ...


class SqliteWriter:
    """Writes a journal's SQLite file.

    Arguments:
        path: The file; made where there is none.

    Raises:
        sqlite3.Error: it can't be opened, or isn't a journal.
        JournalError: a newer Loopwright wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._commits = 0
        self._clean_up: threading.Thread | None = None
        self._connection = connect_for_writing(path)
        try:
            migrate(self._connection)
        except BaseException:
            self._connection.close()
            raise
        # Kept: `connection.execute` makes one each time, a sixteenth of a commit.
        self._cursor = self._connection.cursor()

    def commit(self, operations: Sequence[Operation]) -> None:
        """Write all of `operations`, or none.

        Raises:
            sqlite3.Error: the disk is full, or the file damaged.
        """
        execute = self._cursor.execute
        if len(operations) == 1:
            name, values = operations[0]
            execute(STATEMENTS[name], values)
        else:
            execute("BEGIN IMMEDIATE")
            try:
                for name, values in operations:
                    execute(STATEMENTS[name], values)
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK")
                raise
        self._commits += 1
        if self._commits % _COMMITS_PER_CLEAN_UP == 0:
            self._clean_up_beside()

    def sync(self) -> None:
        """Bring everything onto the disk, and the write-ahead log into the file."""
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists():  # SQLite locks the file and never the log: another descriptor of it does no harm
            sync_file(log)
        # PASSIVE waits for no reader. It syncs too, but only what it finds to copy.
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Close the file. In a forked child the inherited connection is left alone."""
        if self._clean_up is not None:
            self._clean_up.join()
        self._connection.close()

    def _clean_up_beside(self) -> None:
        """Keep the write-ahead log short, off the loop's thread: an fsync takes 4 to 200 ms."""
        if self._clean_up is None or not self._clean_up.is_alive():
            target = clean_up_write_ahead_log
            self._clean_up = threading.Thread(target=target, args=(self.path,), name="journal-clean-up", daemon=True)
            self._clean_up.start()


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """Return a connection to a database with a write-ahead log that nobody folds in by himself."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=Connection
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
