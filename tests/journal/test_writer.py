from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.journal.reader import JournalReader
from loopwright.journal.writer import SqliteWriter
from tests.journal.programs import entry, next_line

# Writes records from a number on, and prints each number once `commit` has returned.
WRITE_FOR_EVER = """
import itertools, os, sys
from pathlib import Path
from loopwright.journal.lines import LineWriter
from loopwright.journal.writer import SqliteWriter

path, first = Path(sys.argv[1]), int(sys.argv[2])
writer = LineWriter(path) if path.suffix == ".jsonl" else SqliteWriter(path)
for number in itertools.count(first):
    writer.commit([("record", (number, 1, "log", number, 1.5, '{"loss": 0.5}', None, None))])
    os.write(1, f"{number}\\n".encode())
    if number % 500 == 0:
        writer.sync()
"""

# Sends what is committed along with it past the tail.
NO_RECORD = ("drop", (None, 0))


def numbers_in(directory: Path) -> list[int]:
    with JournalReader(directory) as reader:
        reader.check()
        return [record.sequence for record in reader.records()]


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    opened = SqliteWriter(tmp_path / "journal.db")
    yield opened
    opened.close()


def test_every_acknowledged_record_survives_a_kill(
    tmp_path: Path, journal_kind: str, start: Callable[..., Any]
) -> None:
    path = tmp_path / {"sqlite": "journal.db", "lines": "journal.jsonl"}[journal_kind]
    newest = 0
    for _ in range(5):
        process = start(WRITE_FOR_EVER, path, newest + 1)
        assert int(next_line(process)) == newest + 1
        time.sleep(random.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        printed = process.stdout.read()  # not `communicate`, which leaves out what was read along with the first line
        acknowledged = [newest + 1, *map(int, printed[: printed.rfind("\n") + 1].split())]
        found = numbers_in(tmp_path)
        # One more may be there: its number was just about to be printed.
        assert found in (list(range(1, acknowledged[-1] + 1)), list(range(1, acknowledged[-1] + 2)))
        newest = found[-1]
    assert newest > 20


def test_the_loops_connection_never_brings_the_log_in_by_itself(tmp_path: Path, writer: SqliteWriter) -> None:
    settings = {
        name: writer._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("wal_autocheckpoint", "journal_mode", "synchronous")
    }
    assert settings == {"wal_autocheckpoint": 0, "journal_mode": "wal", "synchronous": 1}
    before = (tmp_path / "journal.db").read_bytes()
    for number in range(1, 2001):  # twice as many pages as SQLite would bring in by default
        writer.commit([entry(number), NO_RECORD])
    assert (tmp_path / "journal.db").read_bytes() == before


def test_the_log_stays_short_beside_a_loop_that_never_pauses(tmp_path: Path, writer: SqliteWriter) -> None:
    log = tmp_path / "journal.db-wal"
    longest = committed_beside = 0
    for number in range(1, 20_001):
        writer.commit([entry(number), NO_RECORD])
        if writer._clean_up is not None and writer._clean_up.is_alive():
            committed_beside += 1
            time.sleep(0.0005)  # a slow disk gives this loop no time to commit everything
        if number % 100 == 0:
            longest = max(longest, log.stat().st_size)
    assert committed_beside > 0  # so that there was always something more to bring in
    assert longest < 60_000_000  # 82 MB where nobody finishes it
    assert numbers_in(tmp_path) == list(range(1, 20_001))


def test_a_reader_in_the_way_stops_neither_commits_nor_syncs(tmp_path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1), NO_RECORD])
    in_the_way = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    in_the_way.execute("BEGIN")
    in_the_way.execute("SELECT count(*) FROM records").fetchone()
    began = time.monotonic()
    for number in range(2, 5001):
        writer.commit([entry(number)] if number % 2 else [entry(number), NO_RECORD])
    writer.sync()
    seconds = time.monotonic() - began
    in_the_way.close()
    assert seconds < 4.0  # a connection's patience, were it asked to wait
    assert numbers_in(tmp_path) == list(range(1, 5001))


def test_sync_brings_everything_onto_the_disk(
    tmp_path: Path, make_writer: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer()
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, path.stat().st_size))

    monkeypatch.setattr(os, "fsync", note)
    writer.commit([entry(1)])
    assert synced == []
    writer.sync()
    log = writer.path if writer.path.suffix == ".jsonl" else writer.path.with_name("journal.db-wal")
    assert synced == [(log.name, log.stat().st_size)]  # what the tail had is in the log by then


def test_sync_brings_the_log_into_the_file(tmp_path: Path, writer: SqliteWriter) -> None:
    for number in range(1, 101):
        writer.commit([entry(number)])
    writer.sync()
    (tmp_path / "alone").mkdir()
    shutil.copy(writer.path, tmp_path / "alone" / "journal.db")  # without the log
    assert numbers_in(tmp_path / "alone") == list(range(1, 101))


def test_statements_that_are_committed_together_hold_together(tmp_path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1), entry(2)])
    with pytest.raises(sqlite3.IntegrityError):
        writer.commit([entry(3), ("drop", (1, 1)), ("record", (4, None, "log", 4, 1.5, "{}", None, None))])
    writer.commit([entry(5)])
    assert numbers_in(tmp_path) == [1, 2, 5]


def test_close_leaves_one_file(tmp_path: Path) -> None:
    writer = SqliteWriter(tmp_path / "journal.db")
    writer.commit([entry(1)])
    endings = ("", "-tail", "-wal", "-shm")
    assert {path.name for path in tmp_path.iterdir()} == {f"journal.db{ending}" for ending in endings}
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["journal.db"]
