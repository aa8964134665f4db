"""See a journal of either kind as one database, with everything that was committed in it.

    journal.db     SQLite's file; what is in its tail is brought in first, or, where this process may not write, added
                   to a copy in memory
    journal.jsonl  its lines, executed on a database in memory

No transaction outlives a call: a reader that kept one open made the write-ahead log grow to 392 MB.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Protocol

from loopwright.errors import JournalNotFound
from loopwright.journal.lines import read_operations, read_version
from loopwright.journal.ownership import Connection
from loopwright.journal.schema import LINES_NAME, STATEMENTS, insert_records, migrate, require_known
from loopwright.journal.tail import Place, bring_in, has_news, new_records, place_of, read_tail, tail_of

_BUSY_SECONDS = 5.0
# How long others that write are waited for before a copy has to do.
_BRING_IN_SECONDS = 0.5
# What SQLite answers where it may not write, or has no room for it.
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})


class View(Protocol):
    """A journal as a database. Not to be shared by threads.

    Whatever it does raises `sqlite3.Error`, `OSError` or `JournalError` where the journal can't be read.
    """

    def connection(self) -> sqlite3.Connection:
        """Return a connection that sees all that has been committed by now."""
        ...

    def change_counter(self) -> tuple[int, ...]:
        """Return what is another one when something was written."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def view_of(path: Path) -> View:
    """Return the view of the journal at `path`."""
    return _LinesView(path) if path.name == LINES_NAME else _DatabaseView(path)


class _LinesView:
    def __init__(self, path: Path) -> None:
        read_version(path)
        self._path = path
        self._offset = 0
        self._memory = _connect(":memory:")
        migrate(self._memory)

    def connection(self) -> sqlite3.Connection:
        for operations, offset in read_operations(self._path, self._offset):
            for name, values in operations:
                self._memory.execute(STATEMENTS[name], values)
            self._offset = offset
        return self._memory

    def change_counter(self) -> tuple[int, ...]:
        return (self._path.stat().st_size,)

    def close(self) -> None:
        self._memory.close()


class _DatabaseView:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._tail = tail_of(path)
        self._file = _open(path)
        self._place: Place | None = None
        self._writing: sqlite3.Connection | None = None
        self._copy: sqlite3.Connection | None = None
        self._copied: tuple[object, ...] = ()

    def connection(self) -> sqlite3.Connection:
        if not self._has_news():
            return self._file
        try:
            self._bring_in()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in {*_NOT_WRITABLE, sqlite3.SQLITE_BUSY}:
                raise
            return self._with_tail()
        return self._file

    def change_counter(self) -> tuple[int, ...]:
        (seen,) = self.connection().execute("PRAGMA data_version").fetchone()
        # A copy made anew counts from the beginning; what it was made of is another.
        return (seen,) if self._copy is None else (seen, hash(self._copied))

    def close(self) -> None:
        for connection in (self._copy, self._writing, self._file):
            if connection is not None:
                connection.close()

    def _has_news(self) -> bool:
        """Return whether anything in the tail is not in the file."""
        if self._place is None:
            if not self._tail.exists():
                return False  # so may a journal that older versions wrote say nothing of one
            self._place = place_of(self._file)
        if not has_news(self._tail, self._place):
            return False
        self._place = place_of(self._file)  # others bring in too
        return has_news(self._tail, self._place)

    def _bring_in(self) -> None:
        if self._writing is None:
            self._writing = _connect(f"{self._path.resolve().as_uri()}?mode=rw", _BRING_IN_SECONDS)
            self._writing.execute("PRAGMA synchronous=NORMAL")
        self._place = bring_in(self._writing, self._tail)

    def _with_tail(self) -> sqlite3.Connection:
        """Return a copy in memory of what the file holds and what the tail has beyond it."""
        (version,) = self._file.execute("PRAGMA data_version").fetchone()
        while True:
            place = place_of(self._file)
            rows, reached = new_records(read_tail(self._tail), place)
            if self._copy is not None and self._copied == (version, place, reached):
                return self._copy
            memory = _connect(":memory:")
            self._file.backup(memory)
            if place_of(memory) == place:  # else something was brought in meanwhile, and the tail may hold it no more
                break
            memory.close()
        memory.executemany(insert_records(1), rows)
        if self._copy is not None:
            self._copy.close()
        self._copy, self._copied = memory, (version, place, reached)
        return memory


def _open(path: Path) -> sqlite3.Connection:
    address = path.resolve().as_uri()
    try:
        return _require_journal(_connect(f"{address}?mode=rw"))  # a reader takes part in the log's index
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NOT_WRITABLE:
            raise
    log = path.with_name(f"{path.name}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    return _require_journal(_copy(path, log) if has_log else _connect(f"{address}?mode=ro&immutable=1"))


def _connect(address: str, seconds: float = _BUSY_SECONDS) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=seconds, isolation_level=None, check_same_thread=False, factory=Connection
    )


def _require_journal(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        connection.execute("PRAGMA query_only=1")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        require_known(version)
        if version == 0:
            raise JournalNotFound("the journal is only just being made")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _copy(path: Path, log: Path) -> sqlite3.Connection:
    """Return a copy in memory: where the log's index can't be written, the log can't be read in its place."""
    memory = _connect(":memory:")
    with tempfile.TemporaryDirectory(prefix="loopwright-") as beside:
        for part in (path, log):
            shutil.copyfile(part, Path(beside) / part.name)
        copied = _connect((Path(beside) / path.name).as_uri())
        try:
            copied.backup(memory)
        finally:
            copied.close()
    return memory
