from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwright.journal import writer as writer_module
from loopwright.journal.file import sync_beside
from loopwright.journal.reader import JournalReader
from loopwright.journal.tail import SIZE, bring_content_in, has_news, new_records, place_of, read_tail, tail_of
from loopwright.journal.writer import SqliteWriter, connect_for_writing
from tests.journal.programs import entry, next_line, output_of

Start = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def writer(path: Path) -> Iterator[SqliteWriter]:
    opened = SqliteWriter(path)
    yield opened
    opened.close()


def numbers_in(path: Path) -> list[int]:
    with JournalReader(path.parent) as reader:
        return [record.sequence for record in reader.records()]


def numbers_in_file(path: Path) -> list[int]:
    """Return what a program finds that knows of no tail."""
    connection = sqlite3.connect(path)
    found = [number for (number,) in connection.execute("SELECT sequence FROM records ORDER BY sequence")]
    connection.close()
    return found


def leave(path: Path, code: str) -> None:
    """Run a program that writes with `writer` and is gone without an end, as a kill leaves it."""
    program = f"""
import os
from pathlib import Path
from loopwright.journal.writer import SqliteWriter
from tests.journal.programs import entry
writer = SqliteWriter(Path({str(path)!r}))
{code}
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60.0)


def test_a_record_is_read_at_once_and_brought_in_by_who_reads(path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1)])
    writer.commit([entry(2), entry(3)])
    assert numbers_in_file(path) == []
    assert has_news(tail_of(path), place_of(writer._connection))
    with JournalReader(path.parent) as reader:
        assert reader.last_sequence() == 3
        assert numbers_in_file(path) == [1, 2, 3]
        assert not has_news(tail_of(path), place_of(writer._connection))
        writer.commit([entry(4)])
        assert reader.last_sequence() == 4


def test_every_value_comes_back_as_it_was(path: Path, writer: SqliteWriter) -> None:
    rows = [
        (1, 7, "log", 3, 1764312345.1234567, '{"text": "tab \\t, line \\n, \\u00e9, \\ud800", "nan": NaN}', None, None),
        (2, 7, "prediction", 0, 0.1 + 0.2, "{}", '["a\\tb"]', 'tracker "of\tmine" é'),
    ]
    writer.commit([("record", rows[0])])
    writer.commit([("record", rows[1]), ("record", (3, *rows[1][1:]))])
    writer.sync()
    found = sqlite3.connect(path).execute("SELECT * FROM records").fetchall()
    assert found == [(*row, None) for row in (*rows, (3, *rows[1][1:]))]


def test_what_is_no_record_comes_after_the_records_before_it(path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1)])
    writer.commit([entry(2)])
    writer.commit([("drop", (2, 1))])
    assert numbers_in(path) == [2]
    leave(path.with_name("killed.db"), "writer.commit([entry(1)]); writer.commit([('drop', (2, 1))])")
    killed = sqlite3.connect(path.with_name("killed.db"))
    assert killed.execute("SELECT sequence, dropped_by FROM records").fetchall() == [(1, 2)]


def test_a_full_tail_is_emptied_and_taken_again(path: Path, writer: SqliteWriter) -> None:
    text = '{"text": "' + "x" * 1000 + '"}'
    number = 3 * SIZE // len(text)
    for sequence in range(1, number + 1):
        writer.commit([entry(sequence, text=text)])
    assert len(numbers_in_file(path)) > number // 2  # nobody read meanwhile
    assert numbers_in(path) == list(range(1, number + 1))
    assert tail_of(path).stat().st_size == SIZE


def test_a_record_longer_than_the_tail_goes_past_it(path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1)])
    writer.commit([entry(2, text='{"text": "' + "x" * SIZE + '"}')])
    writer.commit([entry(3)])
    assert numbers_in_file(path) == [1, 2]
    assert numbers_in(path) == [1, 2, 3]


def test_after_a_while_records_are_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_SECONDS_IN_TAIL", 0.05)
    writer = SqliteWriter(path)
    writer.commit([entry(1)])
    time.sleep(0.1)
    writer.commit([entry(2)])
    assert numbers_in_file(path) == [1]
    writer.close()


def test_a_sync_from_another_thread_brings_in(path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1)])
    sync_beside(path.parent)
    assert numbers_in_file(path) == [1]
    writer.commit([entry(2)])
    assert numbers_in(path) == [1, 2]


# Killed, torn, damaged, of somebody else


def test_what_a_kill_left_in_the_tail_is_brought_in_by_the_next_writer(path: Path) -> None:
    for number in (1, 2, 3):
        leave(path, f"writer.commit([entry({number})])")
        assert tail_of(path).exists()
    assert numbers_in_file(path) == [1, 2]
    SqliteWriter(path).close()
    assert numbers_in_file(path) == [1, 2, 3]
    assert not tail_of(path).exists()


def test_a_line_that_a_kill_cut_short_is_none_and_what_follows_is_read(path: Path) -> None:
    leave(path, "writer.commit([entry(1)]); writer.commit([entry(2)]); writer.commit([entry(3)])")
    whole = tail_of(path).read_bytes().rstrip(b"\0")
    database = path.read_bytes(), path.with_name("journal.db-wal").read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(last, len(whole)):
        path.write_bytes(database[0])
        path.with_name("journal.db-wal").write_bytes(database[1])
        path.with_name("journal.db-shm").unlink(missing_ok=True)
        tail_of(path).write_bytes(whole[:length].ljust(SIZE, b"\0"))
        assert numbers_in(path) == [1, 2]
        writer = SqliteWriter(path)
        writer.commit([entry(4)])
        assert numbers_in(path) == [1, 2, 4], length
        writer.close()
        assert numbers_in_file(path) == [1, 2, 4]


@pytest.mark.parametrize("header", [b"", b'{"jour', b"no header\n", b'{"journal": "x", "part": 9} 00000000\n'])
def test_a_tail_whose_first_line_was_only_being_written_holds_nothing(path: Path, header: bytes) -> None:
    """It is written anew when all before it is in the file."""
    leave(path, "writer.commit([entry(1)]); writer.sync()")
    tail_of(path).write_bytes(header.ljust(SIZE, b"\0"))
    assert numbers_in(path) == [1]
    writer = SqliteWriter(path)
    writer.commit([entry(2)])
    assert numbers_in(path) == [1, 2]
    writer.close()


def test_bringing_in_that_is_cut_short_is_done_again(path: Path) -> None:
    leave(path, "writer.commit([entry(1)]); writer.commit([entry(2)])")
    cut_short = connect_for_writing(path)
    cut_short.execute("BEGIN IMMEDIATE")
    bring_content_in(cut_short, read_tail(tail_of(path)))
    cut_short.close()  # as a kill does, before the commit
    assert numbers_in_file(path) == []
    assert numbers_in(path) == [1, 2]


def test_lines_of_a_part_before_are_never_read_again(path: Path, writer: SqliteWriter) -> None:
    for number in range(1, 20):
        writer.commit([entry(number)])
    writer.commit([("drop", (2, 5))])  # and a part begins
    writer.commit([entry(20)])
    before = place_of(writer._connection)
    rows, reached = new_records(read_tail(tail_of(path)), before)
    assert [row[0] for row in rows] == [20]
    assert reached.part == before.part + 1
    assert numbers_in(path) == [number for number in range(1, 21) if number != 5]


def test_the_tail_of_a_journal_that_is_gone_is_not_taken_for_anothers(path: Path) -> None:
    leave(path, "writer.commit([entry(1)])")
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink()
    writer = SqliteWriter(path)
    assert numbers_in(path) == []
    writer.commit([entry(2)])
    assert numbers_in(path) == [2]
    writer.close()


def test_damage_in_the_tail_is_said_and_what_came_before_it_is_kept(
    path: Path, writer: SqliteWriter, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 4):
        writer.commit([entry(number)])
    content = tail_of(path).read_bytes()
    middle = content.index(b"\n2\t") + 3
    with tail_of(path).open("r+b") as file:
        file.seek(middle)
        file.write(b"7")
    writer.sync()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tail_of(path)} is damaged: some of the newest records are lost"
    ]
    assert numbers_in(path) == [1]


# Where the disk or others refuse

WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from loopwright.journal.reader import JournalReader
from loopwright.journal.tail import tail_of
from loopwright.journal.writer import SqliteWriter

path = Path(sys.argv[1])
writer = SqliteWriter(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
for number in range(1, 6):
    writer.commit([("record", (number, 1, "log", number, 1.5, "{}", None, None))])
assert not tail_of(path).exists()
with JournalReader(path.parent) as reader:
    print([record.sequence for record in reader.records()])
writer.close()
"""


def test_without_room_for_a_tail_each_record_is_committed_by_itself(path: Path, start: Start) -> None:
    assert output_of(start(WITHOUT_ROOM, path)) == "[1, 2, 3, 4, 5]\n"


def test_while_somebody_else_writes_a_reader_sees_the_tail_in_a_copy(path: Path, writer: SqliteWriter) -> None:
    writer.commit([entry(1)])
    other = sqlite3.connect(path, isolation_level=None)
    with JournalReader(path.parent) as reader:
        assert reader.last_sequence() == 1
        other.execute("BEGIN IMMEDIATE")
        before = reader.change_counter()
        writer.commit([entry(2)])
        assert reader.change_counter() != before
        assert [record.sequence for record in reader.records()] == [1, 2]
        writer.commit([entry(3)])
        assert [record.sequence for record in reader.records()] == [1, 2, 3]
        other.execute("ROLLBACK")
        assert [record.sequence for record in reader.records()] == [1, 2, 3]
    other.close()
    assert numbers_in_file(path) == [1, 2, 3]


def test_a_reader_that_was_stopped_while_it_wrote_holds_no_line_up(
    path: Path, writer: SqliteWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_SECONDS_IN_TAIL", 0.0)
    writer.commit([entry(1)])
    stopped = sqlite3.connect(path, isolation_level=None)
    stopped.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for number in range(2, 102):
        writer.commit([entry(number)])
    assert time.monotonic() - began < 10.0  # a hundred times the writer's patience
    stopped.close()
    writer.commit([entry(102)])
    assert numbers_in_file(path) == list(range(1, 102))
    assert numbers_in(path) == list(range(1, 103))


def test_a_folder_that_is_deleted_while_it_is_written_stops_nothing(
    path: Path, writer: SqliteWriter, caplog: pytest.LogCaptureFixture
) -> None:
    writer.commit([entry(1)])
    for part in path.parent.iterdir():
        part.unlink()
    writer.commit([entry(2)])
    writer.commit([entry(3), ("drop", (2, 1))])
    assert caplog.records == []


# Writes into a tail so short that it is taken anew every few lines, and prints each number once `commit` has returned.
WRITE_INTO_SHORT_TAILS = """
import itertools, os, sys
from pathlib import Path
from loopwright.journal import tail, writer

tail.SIZE = 2000
path, first = Path(sys.argv[1]), int(sys.argv[2])
writer = writer.SqliteWriter(path)
for number in itertools.count(first):
    writer.commit([("record", (number, 1, "log", number, 1.5, '{"loss": 0.5}', None, None))])
    os.write(1, f"{number}\\n".encode())
"""

READ_FOR_EVER = """
import sys
from loopwright.journal.reader import JournalReader

with JournalReader(sys.argv[1]) as reader:
    newest = 0
    print("reading", flush=True)
    while True:
        found = [record.sequence for record in reader.records(after=newest)]
        assert found == list(range(newest + 1, newest + 1 + len(found))), (newest, found)
        newest += len(found)
"""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("turns", [4, pytest.param(500, marks=pytest.mark.soak)])
def test_writers_and_readers_killed_at_any_moment_lose_nothing(path: Path, start: Start, turns: int) -> None:
    newest = 0
    for _ in range(turns):
        writing = start(WRITE_INTO_SHORT_TAILS, path, newest + 1)
        assert int(next_line(writing)) == newest + 1
        reading = [start(READ_FOR_EVER, path.parent) for _ in range(2)]
        for reader in reading:
            assert next_line(reader) == "reading"
        time.sleep(random.uniform(0.02, 0.3))
        reading[0].send_signal(signal.SIGKILL)
        time.sleep(random.uniform(0.0, 0.1))
        writing.send_signal(signal.SIGKILL)
        printed = writing.stdout.read()
        acknowledged = [newest + 1, *map(int, printed[: printed.rfind("\n") + 1].split())]
        assert reading[1].poll() is None, reading[1].communicate()[1]
        reading[1].kill()
        found = numbers_in(path)
        assert found in (list(range(1, acknowledged[-1] + 1)), list(range(1, acknowledged[-1] + 2)))
        newest = found[-1]
    assert newest > 60 * turns  # some tails in each
