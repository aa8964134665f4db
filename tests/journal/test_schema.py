from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import JournalError, JournalNotFound
from loopwright.journal import schema
from loopwright.journal.lines import LineWriter
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.journal.schema import MIGRATIONS, STATEMENTS, VERSION, migrate, require_known
from loopwright.journal.writer import SqliteWriter
from loopwright.records import Kind, Run, Status
from tests.journal.programs import entry, output_of


def version_of(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(found)


def tables_in(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


def test_a_database_of_version_0_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    # What a kill leaves behind that came after the file was made and before its tables were.
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL").fetchone()
    connection.close()
    assert (version_of(path), tables_in(path)) == (0, set())
    with pytest.raises(JournalNotFound, match="only just being made"):
        JournalReader(tmp_path)
    SqliteWriter(path).close()
    assert (version_of(path), tables_in(path)) == (VERSION, {"runs", "attempts", "records", "sinks", "tail"})


def test_an_older_journal_is_brought_up_with_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    writer = SqliteWriter(path)
    writer.commit([entry(1)])
    writer.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE records ADD COLUMN mood TEXT",)))
    monkeypatch.setattr(schema, "VERSION", VERSION + 1)
    writer = SqliteWriter(path)
    assert writer._connection.execute("SELECT sequence, mood FROM records").fetchall() == [(1, None)]
    writer.close()
    assert version_of(path) == VERSION + 1


def test_a_migration_that_fails_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    SqliteWriter(path).close()
    broken = ("CREATE TABLE moods (mood TEXT)", "ALTER TABLE nowhere ADD COLUMN mood TEXT")
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, broken))
    monkeypatch.setattr(schema, "VERSION", VERSION + 1)
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
        migrate(connection)
    assert not connection.in_transaction
    connection.close()
    assert version_of(path) == VERSION
    assert "moods" not in tables_in(path)


def make_newer(directory: Path, kind: str) -> Path:
    if kind == "lines":
        path = directory / "journal.jsonl"
        header = json.dumps({"journal": VERSION + 1}).encode()
        path.write_bytes(b'%s %08x\n["what only the newer one understands"]\n' % (header, zlib.crc32(header)))
        return path
    path = directory / "journal.db"
    SqliteWriter(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    return path


def test_a_newer_journal_is_refused_with_the_way_out_and_left_alone(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: Callable[..., Recorder]
) -> None:
    path = make_newer(tmp_path, journal_kind)
    content = path.read_bytes()
    words = f"version {VERSION + 1}, this Loopwright reads up to {VERSION}: install a newer Loopwright"
    for open_it in (
        lambda: JournalReader(tmp_path),
        lambda: LineWriter(path) if journal_kind == "lines" else SqliteWriter(path),
        lambda: make_recorder().begin_attempt(run, purpose="training"),
        lambda: make_recorder().begin_attempt(run, purpose="training"),  # nothing of the first is in the way
    ):
        with pytest.raises(JournalError, match=words):
            open_it()
    assert path.read_bytes() == content
    assert {found.name for found in tmp_path.iterdir()} == {path.name, "journal.lock"}


def test_a_newer_journal_is_refused_where_it_can_only_be_read_too(
    tmp_path: Path, journal_kind: str, start: Callable[..., Any]
) -> None:
    path = make_newer(tmp_path, journal_kind)
    content = path.read_bytes()
    beginning = """
        import resource, sys
        from loopwright.errors import JournalError
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Run

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            Recorder(sys.argv[1]).begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        except JournalError as error:
            print(error)
        """
    assert "install a newer Loopwright" in output_of(start(beginning, tmp_path))
    assert path.read_bytes() == content


def test_this_version_and_older_ones_are_known() -> None:
    for version in range(VERSION + 1):
        require_known(version)


def test_both_kinds_of_journal_take_every_statement(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: Callable[..., Recorder]
) -> None:
    recorder = make_recorder()
    written: list[str] = []
    recorder.begin_attempt(run, purpose="training")
    commit = recorder._file.commit

    def note(operations: Any) -> None:
        written.extend(name for name, _ in operations)
        commit(operations)

    recorder._file.commit = note  # type: ignore[method-assign]
    position = recorder.record(Kind.LOG, 1, {"loss": 1.0})
    recorder.end_attempt(Status.FAILED)
    number = recorder.begin_attempt(run, purpose="training", resumed_at={"position": 0, "awaited": []})
    sink = SinkEntry(run.id, "tensorboard", "module:name", {"a": [1]}, {"LOG_DIR": "x"}, "delivery", True)
    recorder.add_sink(sink)
    recorder.record(Kind.LOG, 1, {"loss": 2.0})
    assert set(written) == set(STATEMENTS)
    with JournalReader(tmp_path) as reader:
        assert [found.id for found in reader.runs()] == [run.id]
        assert [(found.number, found.status) for found in reader.attempts()] == [
            (number - 1, Status.FAILED),
            (number, Status.RUNNING),
        ]
        assert reader.sinks() == [sink]
        assert [(found.sequence, found.kind) for found in reader.records()] == [
            (position + 1, Kind.REWIND),
            (position + 2, Kind.LOG),
        ]


def test_what_is_migrated_twice_stays_the_same() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    made = connection.execute("SELECT sql FROM sqlite_master").fetchall()
    migrate(connection)
    assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == made
    connection.close()
