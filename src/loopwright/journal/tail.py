"""Take records before SQLite does: the newest lie in `journal.db-tail`, a file that is mapped into memory.

    commit ──▶ the tail, a line each ──▶ journal.db      by whoever reads, a save, a full tail, the end

Appending is copying some bytes within the process: no call into the system, nothing that another thread could take its
turn at. A kill of the process leaves them whole, as it leaves what was written to a file; for a loss of power they are
brought in and synced. A commit to SQLite between two steps takes three to seven times as long.

The file has a size that doesn't change, its room taken beforehand, so that a full disk is found when it is made:

    {"journal": "5f0c…", "part": 3} <checksum>
    1 ⇥ 1 ⇥ log ⇥ … <checksum>           records that hold together, eight values of each with tabs between
    zeros

`journal.db` says up to where which part was brought in, in the transaction that did it, so nothing is brought in twice,
whoever does it. A part is written over when all of it is in there. Checksums go on from the first line's, so no line is
ever taken for one of another part; one that is only just being written, or that a kill cut short, is none.
"""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.journal.lines import checked, decode_line, encode_line, with_checksum
from loopwright.journal.ownership import transaction
from loopwright.journal.schema import RECORD_COLUMNS, Operation, insert_records
from loopwright.journal.values import dumps

# Some 3,400 log lines: what a loop brings in at once where nobody reads its journal, in some 24 ms.
SIZE = 512 * 1024
_LONGEST_HEADER = 128
# Records that one statement takes. Each statement lets other threads have the interpreter.
_ROWS = (512, 32, 1)


def tail_of(path: Path) -> Path:
    """Return where the tail of the journal at `path` lies."""
    return path.with_name(f"{path.name}-tail")


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where a tail has been brought in.

    Attributes:
        journal: Of which journal the tail is.
        part: Counted from 1; 0 before the first.
        offset: In bytes; 0 stands for the part's first line.
    """

    journal: str
    part: int
    offset: int


class Tail:
    """Appends to a journal's tail.

    Arguments:
        path: The tail's file; what is in it has been brought in, and is written over.
        journal: Of which journal.
        part: The number of the part that begins.

    Raises:
        OSError: there is no room on the disk, or no mapping of files.
    """

    def __init__(self, path: Path, journal: str, part: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            # Written, not only made so long: a page without room on the disk would end the process when it is used.
            if os.write(descriptor, bytes(SIZE)) < SIZE:
                raise OSError(errno.ENOSPC, f"no room for {SIZE} bytes")
            self._mapping = mmap.mmap(descriptor, SIZE)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        self._journal, self._part, self._end = journal, part - 1, 0
        self.begin_part()

    def begin_part(self) -> None:
        """Begin the next part, where the present one is brought in."""
        self._part += 1
        header = encode_line({"journal": self._journal, "part": self._part})
        self._mapping[: self._end] = bytes(self._end)
        self._mapping[: len(header)] = header
        self._end = len(header)
        self._seed = zlib.crc32(header)

    @property
    def place(self) -> Place:
        """Where the next line will be."""
        return Place(self._journal, self._part, self._end)

    def append(self, operations: Sequence[Operation]) -> bool:
        """Append records that hold together; return whether there was room."""
        text = "\t".join([_record_text(*values) for _, values in operations]).encode()
        line = with_checksum(text, self._seed)
        end = self._end + len(line)
        if end >= SIZE:  # the last byte stays zero
            return False
        self._mapping[self._end : end] = line
        self._end = end
        return True

    def content(self) -> bytes:
        """Return what `read_tail` would, from memory."""
        return self._mapping[: self._end]

    def records(self) -> list[Operation]:
        """Return all the records of the part."""
        rows, _ = new_records(self.content(), Place(self._journal, self._part, 0))
        return [("record", values) for values in rows]

    def close(self) -> None:
        """Let the file go."""
        self._mapping.close()


# Bringing in


def place_of(connection: sqlite3.Connection) -> Place:
    """Return up to where the tail has been brought in, as the journal that `connection` is open on says."""
    row = connection.execute("SELECT journal, part, offset FROM tail").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the table of the tail is malformed: it has no row")
    return Place(*row)


def has_news(path: Path, place: Place) -> bool:
    """Return whether the tail at `path` has a record that isn't brought in, by a look at two of its lines."""
    try:
        with path.open("rb") as file:
            header = file.readline(_LONGEST_HEADER)
            found = _parse_header(header)
            first = None if found is None else _first_new(found, place)
            if first is None:
                return False
            file.seek(first)
            begin = file.read(1)  # else what is still empty would be searched for a line's end
            return begin not in (b"", b"\0") and checked(begin + file.readline(), zlib.crc32(header)) is not None
    except FileNotFoundError:
        return False


def read_tail(path: Path) -> bytes:
    """Return what the tail at `path` holds; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def bring_in(connection: sqlite3.Connection, path: Path) -> Place:
    """Bring what is new in the tail at `path` into the journal that `connection` is open on; return up to where.

    Raises:
        sqlite3.Error: the journal doesn't take it.
        OSError: the tail can't be read.
    """
    with transaction(connection):
        return bring_content_in(connection, read_tail(path))


def bring_content_in(connection: sqlite3.Connection, content: bytes) -> Place:
    """Do what `bring_in` does with a tail's content, within a transaction that was begun before that was read."""
    place = place_of(connection)
    rows, reached = new_records(content, place)
    for statement, values in _statements(rows):
        connection.execute(statement, values)
    if reached != place:
        connection.execute("UPDATE tail SET part = ?, offset = ?", (reached.part, reached.offset))
    return reached


def new_records(content: bytes, place: Place) -> tuple[list[tuple[Any, ...]], Place]:
    """Return the values of the records in a tail's content that come after `place`, and the place behind them."""
    found = _parse_header(content[:_LONGEST_HEADER])
    first = None if found is None else _first_new(found, place)
    if found is None or first is None:
        return [], place
    rows, end = _read_lines(content, first, zlib.crc32(content[: found.offset]))
    return rows, Place(place.journal, found.part, end)


def _first_new(found: Place, place: Place) -> int | None:
    """Return where what isn't brought in begins, `found` being the tail's first line; None where nothing is new."""
    if found.journal != place.journal or found.part < place.part:
        return None
    return max(place.offset, found.offset) if found.part == place.part else found.offset


def _parse_header(content: bytes) -> Place | None:
    """Return of which journal and part a tail is, and where its lines begin."""
    length = content.find(b"\n") + 1
    found = decode_line(content[:length]) if length else None
    return Place(found["journal"], found["part"], length) if isinstance(found, dict) else None


def _record_text(  # noqa: PLR0913 -- a record's columns
    sequence: int, attempt: int, kind: str, step: int, time: float, data: str, added: str | None, tracker: str | None
) -> str:
    """Return a record's values as text: JSON, which leaves no tab as it is, is never encoded twice."""
    name = "" if tracker is None else dumps(tracker)
    return f"{sequence}\t{attempt}\t{kind}\t{step}\t{time!r}\t{data}\t{added or ''}\t{name}"


def _records(text: str) -> Iterator[tuple[Any, ...]]:
    fields = iter(text.split("\t"))
    for sequence, attempt, kind, step, time, data, added, name in zip(*[fields] * len(RECORD_COLUMNS), strict=True):
        tracker = json.loads(name) if name else None
        yield int(sequence), int(attempt), kind, int(step), float(time), data, added or None, tracker


def _read_lines(content: bytes, first: int, seed: int) -> tuple[list[tuple[Any, ...]], int]:
    """Return the records of the whole lines from `first` on, and where those end."""
    rows: list[tuple[Any, ...]] = []
    while first < len(content) and content[first]:
        end = content.find(b"\n", first) + 1
        text = checked(content[first:end], seed) if end else None
        if text is None:
            break
        rows += _records(text.decode())
        first = end
    return rows, first


def _statements(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
    first = 0
    for number in _ROWS:
        statement = insert_records(number)
        while first + number <= len(rows):
            yield statement, list(itertools.chain.from_iterable(rows[first : first + number]))
            first += number
