"""Keep, in `delivery.db`, how far each tracker is with each run. Written by delivery alone, never by the loop."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.errors import JournalError
from loopwright.journal.ownership import transaction
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.writer import connect_for_writing

STORE_NAME = "delivery.db"

_MIGRATIONS: tuple[str, ...] = (
    """CREATE TABLE deliveries (
        run_id TEXT NOT NULL, tracker TEXT NOT NULL, cursor INTEGER NOT NULL DEFAULT 0,
        reference TEXT NOT NULL DEFAULT '{}', was_closed INTEGER NOT NULL DEFAULT 1, error TEXT, failed_at REAL,
        refused INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run_id, tracker)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """How far a tracker is with a run.

    Attributes:
        cursor: Number of the last record that the service holds for certain.
        reference: What the tracker remembered.
        was_closed: Whether the last session ended in order.
        error: What stands in the way, in words; None where nothing does.
        failed_at: Since when, in seconds since 1970.
        refused: How many records the service will never take.
    """

    cursor: int = 0
    reference: dict[str, Any] = field(default_factory=dict)
    was_closed: bool = True
    error: str | None = None
    failed_at: float | None = None
    refused: int = 0


class DeliveryStore:
    """Reads and writes `delivery.db` in `output_dir`; may be shared by threads.

    Raises:
        JournalError: it can't be opened, or a newer Loopwright wrote it.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.path: Path = Path(output_dir) / STORE_NAME
        self._lock = threading.Lock()
        try:
            self._connection = connect_for_writing(self.path)
            self._connection.execute("PRAGMA wal_autocheckpoint=1000")  # nobody trains here
            self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self.path} can't be opened: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def read(self, run_id: str, tracker: str) -> Delivered:
        """Return how far `tracker` is with the run."""
        with self._lock:
            return _read(self._connection, run_id, tracker)

    def move(self, run_id: str, tracker: str, cursor: int) -> None:
        """Note that the service holds everything up to record number `cursor`."""
        self._set(run_id, tracker, cursor=cursor)

    def remember(self, run_id: str, tracker: str, values: Mapping[str, Any]) -> None:
        """Add to what the tracker remembers."""
        reference = self.read(run_id, tracker).reference | dict(values)
        self._set(run_id, tracker, reference=json.dumps(reference))

    def note_session(self, run_id: str, tracker: str, *, is_open: bool) -> None:
        """Note that a session began, or that it ended in order."""
        self._set(run_id, tracker, was_closed=int(not is_open))

    def note_failure(self, run_id: str, tracker: str, error: str) -> None:
        """Note what stands in the way."""
        self._set(run_id, tracker, error=error, failed_at=time.time())

    def note_success(self, run_id: str, tracker: str) -> None:
        """Note that nothing does any more."""
        self._set(run_id, tracker, error=None, failed_at=None)

    def note_refusal(self, run_id: str, tracker: str) -> None:
        """Count a record that the service will never take."""
        self._set(run_id, tracker, refused=self.read(run_id, tracker).refused + 1)

    def _set(self, run_id: str, tracker: str, **values: Any) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._lock:
            self._connection.execute(
                "INSERT OR IGNORE INTO deliveries (run_id, tracker) VALUES (?, ?)", (run_id, tracker)
            )
            self._connection.execute(
                f"UPDATE deliveries SET {columns} WHERE run_id = ? AND tracker = ?",
                (*values.values(), run_id, tracker),
            )

    def _migrate(self) -> None:
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found > len(_MIGRATIONS):
            raise JournalError(f"{self.path} was written by a newer Loopwright: install that")
        if found == len(_MIGRATIONS):
            return
        with transaction(self._connection):
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            for statement in _MIGRATIONS[found:]:
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def standing_of(reader: JournalReader, entry: SinkEntry) -> tuple[Delivered, int]:
    """Return how far a tracker is with a run, and how many of the journal's records it lacks."""
    delivered = read_delivered(reader.path.parent, entry.run_id, entry.tracker)
    return delivered, reader.count(entry.run_id, after=delivered.cursor, tracker=entry.tracker)


def read_delivered(output_dir: Path | str, run_id: str, tracker: str) -> Delivered:
    """Return how far `tracker` is with the run, without ever making the file or waiting for it."""
    path = Path(output_dir) / STORE_NAME
    if not path.is_file():
        return Delivered()
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=1.0)
        try:
            return _read(connection, run_id, tracker)
        finally:
            connection.close()
    except sqlite3.Error:  # just being made
        return Delivered()


def _read(connection: sqlite3.Connection, run_id: str, tracker: str) -> Delivered:
    row = connection.execute(
        "SELECT cursor, reference, was_closed, error, failed_at, refused FROM deliveries "
        "WHERE run_id = ? AND tracker = ?",
        (run_id, tracker),
    ).fetchone()
    if row is None:
        return Delivered()
    cursor, reference, was_closed, error, failed_at, refused = row
    return Delivered(cursor, json.loads(reference), bool(was_closed), error, failed_at, refused)
