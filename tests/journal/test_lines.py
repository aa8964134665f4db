from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import JournalError
from loopwright.journal.lines import LineWriter, read_operations, read_version
from loopwright.journal.reader import JournalReader
from loopwright.journal.schema import VERSION, Operation
from tests.journal.programs import entry, output_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def append(path: Path, *commits: list[Operation]) -> None:
    writer = LineWriter(path)
    for operations in commits:
        writer.commit(operations)
    writer.close()


def numbers_in(path: Path) -> list[int]:
    with JournalReader(path.parent) as reader:
        return [record.sequence for record in reader.records()]


def test_a_line_reads_as_documented(path: Path) -> None:
    append(path, [entry(1)])
    header, line = path.read_text().splitlines()
    assert json.loads(header.rpartition(" ")[0]) == {"journal": VERSION}
    content, _, checksum = line.rpartition(" ")
    assert json.loads(content) == [["record", [1, 1, "log", 1, 1.5, '{"loss": 0.5}', None, None]]]
    assert len(checksum) == 8


def test_a_torn_last_line_is_left_out_and_what_follows_is_read(path: Path) -> None:
    append(path, [entry(1)], [entry(2)])
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        assert numbers_in(path) == [1]
        append(path, [entry(3)], [entry(4)])
        assert numbers_in(path) == [1, 3, 4], length


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_line_with_a_flipped_bit_is_left_out_and_the_others_are_read(path: Path, bit: int) -> None:
    append(path, *([entry(number)] for number in range(1, 6)))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    begin = sum(map(len, lines[:3]))
    for place in range(begin, begin + len(lines[3]) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        assert numbers_in(path) == [1, 2, 4, 5], place


def test_a_flipped_line_end_costs_the_two_lines_that_it_joins(path: Path) -> None:
    append(path, *([entry(number)] for number in range(1, 6)))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:-1] + b"\x0b"
    path.write_bytes(b"".join(lines))
    assert numbers_in(path) == [1, 2, 5]


def test_a_first_line_cut_short_is_no_journal(path: Path) -> None:
    append(path, [entry(1)])
    header = path.read_bytes().splitlines(keepends=True)[0]
    for length in range(1, len(header) - 1):
        path.write_bytes(header[:length])
        with pytest.raises(JournalError, match="is not a journal"):
            LineWriter(path)
        with pytest.raises(JournalError, match="is not a journal"):
            JournalReader(path.parent)
    assert path.read_bytes() == header[: len(header) - 2]  # nothing was written to it


@pytest.mark.parametrize("content", [b"hello\n", b"\n", b'{"journal": "one"} 00000000\n', b"[1]\n", os.urandom(500)])
def test_anything_else_in_the_journals_place_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is not a journal"):
        LineWriter(path)
    assert path.read_bytes() == content


def test_statements_of_one_line_are_read_together_or_not_at_all(path: Path) -> None:
    append(path, [entry(1)], [("drop", (2, 1)), entry(2)])
    assert numbers_in(path) == [2]
    path.write_bytes(path.read_bytes()[:-3])
    assert numbers_in(path) == [1]


def test_a_line_that_is_being_written_is_read_when_it_is_whole(path: Path) -> None:
    append(path, [entry(1)], [entry(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with JournalReader(path.parent) as reader:
        before = reader.change_counter()
        assert [record.sequence for record in reader.records()] == [1]
        assert reader._view._offset == whole[:-20].rfind(b"\n") + 1  # what was read is not read again
        with path.open("ab") as file:
            file.write(whole[-20:])
        assert reader.change_counter() != before
        assert [record.sequence for record in reader.records()] == [1, 2]


def test_offsets_lead_on_from_line_to_line(path: Path) -> None:
    append(path, [entry(1)], [entry(2)], [entry(3)])
    found = list(read_operations(path, 0))
    assert [operations for operations, _ in found] == [[], *([("record", list(entry(n)[1]))] for n in (1, 2, 3))]
    assert found[-1][1] == path.stat().st_size
    assert [offset for _, offset in read_operations(path, found[1][1])] == [offset for _, offset in found[2:]]
    assert read_version(path) == VERSION


# Lets the file grow no further in the middle of a line, as a full disk does, and then again.
FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from loopwright.journal.lines import LineWriter

path, room = Path(sys.argv[1]), int(sys.argv[2])
writer = LineWriter(path)
record = lambda number: ("record", (number, 1, "log", number, 1.5, '{"loss": 0.5}', None, None))
writer.commit([record(1)])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
for number in (2, 3):
    try:
        writer.commit([record(number)])
    except OSError:
        print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.commit([record(4)])
writer.commit([record(5)])
"""


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_line_that_found_no_room_costs_none_that_follows(path: Path, start: Callable[..., Any], room: int) -> None:
    assert output_of(start(FILL_THE_DISK, path, room)).split() == ["refused", "refused"]
    assert numbers_in(path) == [1, 4, 5]
    assert path.read_bytes().count(b"\n") > 3
