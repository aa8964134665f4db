"""Commit statements to `journal.jsonl`, a file of lines, for filesystems on which SQLite's log is not safe.

    {"journal": 1}
    ["record", [1, 1, "log", ...]] <checksum>

Each line is a list of statements that hold together, then its CRC-32 in hexadecimal: a line that a kill cut short is
told from a whole one, and left out by every reader. What follows it begins on a line of its own.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from loopwright._support.files import sync_directory
from loopwright.errors import JournalError
from loopwright.journal.schema import VERSION, Operation, require_known
from loopwright.journal.values import dumps


class LineWriter:
    """Appends to a journal of lines.

    Arguments:
        path: The file; made where there is none.

    Raises:
        OSError: it can't be opened or written.
        JournalError: a newer Loopwright wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_torn = False
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            self._begin()
        except BaseException:
            os.close(self._descriptor)
            raise

    def commit(self, operations: Sequence[Operation]) -> None:
        """Append all of `operations` as one line.

        Raises:
            OSError: the disk is full, or the network gone.
        """
        self._append(encode_line([[name, list(values)] for name, values in operations]))

    def sync(self) -> None:
        """Bring what was appended onto the disk."""
        os.fsync(self._descriptor)

    def newest_records(self) -> list[Operation]:
        """Return nothing: every line is in the file."""
        return []

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _begin(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size == 0:
            self._append(encode_line({"journal": VERSION}))
            sync_directory(self.path.parent)
            return
        read_version(self.path)
        self._is_torn = os.pread(self._descriptor, 1, size - 1) != b"\n"  # a kill cut the last line short

    def _append(self, line: bytes) -> None:
        # An unfinished line, which readers leave out, must end before the next begins, or both are lost. Nor must it
        # become a whole one, where it lacked its end alone: what follows was written by someone who had not read it.
        data = b"~\n" + line if self._is_torn else line
        self._is_torn = True
        if os.write(self._descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, "no space left for the journal")
        self._is_torn = False


def read_version(path: Path) -> int:
    """Return the version in the first line of `path`.

    Raises:
        JournalError: it is no journal, or a newer Loopwright's.
    """
    with path.open("rb") as file:
        first = decode_line(file.readline())
    if not isinstance(first, dict) or not isinstance(first.get("journal"), int):
        raise JournalError(f"{path} is not a journal")
    version: int = first["journal"]
    require_known(version)
    return version


def read_operations(path: Path, offset: int) -> Iterator[tuple[list[Operation], int]]:
    """Yield the statements of each whole line from `offset` on, with the offset behind it."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # still being written, or cut short by a kill
            offset += len(line)
            found = decode_line(line)
            yield ([(name, values) for name, values in found] if isinstance(found, list) else []), offset


# Lines


def encode_line(content: object) -> bytes:
    """Return `content` as a line of JSON that ends with its checksum."""
    return with_checksum(dumps(content).encode())


def decode_line(line: bytes) -> object:
    """Return what a line holds; None where its checksum is another."""
    text = checked(line)
    content: object = None if text is None else json.loads(text)
    return content


def with_checksum(text: bytes, seed: int = 0) -> bytes:
    """Return a line of `text` and its checksum, which goes on from `seed`."""
    return b"%s %08x\n" % (text, zlib.crc32(text, seed))


def checked(line: bytes, seed: int = 0) -> bytes | None:
    """Return the text of such a line; None where its checksum is another."""
    text, _, checksum = line.rstrip(b"\n").rpartition(b" ")
    return text if checksum == b"%08x" % zlib.crc32(text, seed) else None
