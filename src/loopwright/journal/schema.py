"""The journal's tables, every statement that is ever written to it, and its migrations.

Both kinds of journal hold the same statements: `journal.db` executes them, `journal.jsonl` keeps them as lines, which
a reader executes on a database in memory. So there is one form to query.

    runs ──< attempts ──< records
      └────< sinks: the trackers that each run reports to

A record that a resumed run contradicted stays, with the number of the attempt that dropped it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from loopwright.errors import JournalError
from loopwright.journal.ownership import transaction

JOURNAL_NAME = "journal.db"
LINES_NAME = "journal.jsonl"

# One list of statements for each version; never edited once released, only added to.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, created_at REAL NOT NULL, name TEXT, project TEXT, parent_id TEXT,
            parent_step INTEGER, trial_name TEXT, trial_parameters TEXT) WITHOUT ROWID""",
        """CREATE TABLE attempts (
            number INTEGER PRIMARY KEY, run_id TEXT NOT NULL, purpose TEXT NOT NULL, started_at REAL NOT NULL,
            first_step INTEGER NOT NULL, host TEXT, pid INTEGER, versions TEXT, arguments TEXT, parameters TEXT,
            ended_at REAL, status TEXT NOT NULL DEFAULT 'running', reason TEXT)""",
        """CREATE TABLE records (
            sequence INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, kind TEXT NOT NULL, step INTEGER NOT NULL,
            time REAL NOT NULL, data TEXT NOT NULL, added TEXT, tracker TEXT, dropped_by INTEGER)""",
        """CREATE TABLE sinks (
            run_id TEXT NOT NULL, tracker TEXT NOT NULL, class TEXT NOT NULL, options TEXT NOT NULL,
            environment TEXT NOT NULL, place TEXT NOT NULL, wants_checkpoints INTEGER NOT NULL,
            PRIMARY KEY (run_id, tracker)) WITHOUT ROWID""",
    ),
    (
        # One row: up to where which part of the tail has been brought in.
        "CREATE TABLE tail (journal TEXT NOT NULL, part INTEGER NOT NULL, offset INTEGER NOT NULL)",
        "INSERT INTO tail VALUES (lower(hex(randomblob(8))), 0, 0)",
    ),
)
VERSION = len(MIGRATIONS)

RECORD_COLUMNS = ("sequence", "attempt", "kind", "step", "time", "data", "added", "tracker")


def insert_records(number: int) -> str:
    """Return the statement that writes so many records."""
    row = f"({', '.join('?' * len(RECORD_COLUMNS))})"
    return f"INSERT OR REPLACE INTO records ({', '.join(RECORD_COLUMNS)}) VALUES {', '.join([row] * number)}"


STATEMENTS: dict[str, str] = {
    "run": "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "attempt": (
        "INSERT OR IGNORE INTO attempts (number, run_id, purpose, started_at, first_step, host, pid, versions, "
        "arguments, parameters) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ),
    "end": "UPDATE attempts SET ended_at = ?, status = ?, reason = ? WHERE number = ?",
    "record": insert_records(1),
    "drop": "UPDATE records SET dropped_by = ? WHERE sequence = ?",
    "sink": "INSERT OR REPLACE INTO sinks VALUES (?, ?, ?, ?, ?, ?, ?)",
}

# A statement's name and its values.
Operation = tuple[str, Sequence[Any]]


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database that `connection` is open on up to `VERSION`, in one transaction.

    Raises:
        JournalError: a newer Loopwright wrote it.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    require_known(found)
    if found == VERSION:
        return
    with transaction(connection):
        for statements in MIGRATIONS[found:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def require_known(version: int) -> None:
    """Refuse a journal of a later version.

    Raises:
        JournalError: saying which versions they are.
    """
    if version > VERSION:
        raise JournalError(
            f"the journal has version {version}, this Loopwright reads up to {VERSION}: install a newer Loopwright"
        )
