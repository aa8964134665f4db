"""Read W&B's local files: what they hold of a run is what a kill can't take any more.

A run's file is an append-only log, in the framing of LevelDB's (https://github.com/google/leveldb, doc/log_format.md):
after a header of 7 bytes (":W&B", a number, a version) come blocks of 32 KiB, counted from the file's beginning, in
them pieces of records:

    checksum (4 bytes) | length (2) | type (1) | data      type: 1 whole, 2 first, 3 middle, 4 last

The checksum is the CRC-32 of type and data. A record is a message `Record` of `wandb.proto`. wandb-core writes its
buffer out when it is full: the end of a file may be torn, and what a session has logged last isn't there yet.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# W&B's names, and one of ours: the number of the newest record of the journal in the row. It begins with "_" as W&B's
# own do, which are left out of the charts.
GLOBAL_STEP = "train/global_step"
MARKER = "_loopwright_record"

_HEADER = struct.Struct("<4sHB")
_PIECE = struct.Struct("<IHB")
_BLOCK_SIZE = 32 * 1024
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class LogFile:
    """One file, read onwards from where it was left.

    Arguments:
        path: The file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = _HEADER.size  # of the first record that was not whole when last read

    def read(self) -> Iterator[Any]:
        """Yield the records that have become whole since the last call, as messages of `wandb.proto`."""
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at its import

        for text in self._read_texts():
            yield Record.FromString(text)

    def _read_texts(self) -> Iterator[bytes]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            if file.read(4) != b":W&B":
                return
            file.seek(self._offset)
            parts: list[bytes] = []
            while (piece := _read_piece(file)) is not None:
                kind, data = piece
                parts = [data] if kind in {_WHOLE, _FIRST} else [*parts, data]
                if kind in {_WHOLE, _LAST}:
                    self._offset = file.tell()
                    yield b"".join(parts)


def _read_piece(file: Any) -> tuple[int, bytes] | None:
    """Return type and data of the next piece; None at the end, or where the rest is torn."""
    left = _BLOCK_SIZE - file.tell() % _BLOCK_SIZE
    if left < _PIECE.size:  # no room for one: filled with zeros
        file.seek(left, 1)
    head = file.read(_PIECE.size)
    if len(head) < _PIECE.size:
        return None
    checksum, length, kind = _PIECE.unpack(head)
    data = file.read(length)
    is_whole = kind in {_WHOLE, _FIRST, _MIDDLE, _LAST} and len(data) == length
    return (kind, data) if is_whole and zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum else None


class Holdings:
    """What a run's files hold together.

    Attributes:
        artifacts: Name and digest of each artifact.
    """

    def __init__(self) -> None:
        self.artifacts: set[tuple[str, str]] = set()
        self._summary: dict[str, str] = {}  # JSON, as it is rarely asked for
        self._newest: tuple[int, dict[str, str]] = (-1, {})
        self._numbers = array("q")  # W&B's own steps, which grow from row to row
        self._steps = array("q")
        self._markers = array("q")

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Holdings:
        """Return what the files hold, which are given in the order in which they were written."""
        found = cls()
        for path in paths:
            for record in LogFile(path).read():
                found.take(record)
        return found

    def take(self, record: Any) -> None:
        """Add what a record tells."""
        kind = record.WhichOneof("record_type")
        if kind == "history":
            self._take_row(record.history)
        elif kind == "summary":
            self._summary.update(_texts(record.summary.update))
        elif kind == "artifact":
            self.artifacts.add((record.artifact.name, record.artifact.digest))
        elif kind == "run" and record.run.HasField("branch_point"):
            self.rewind(int(record.run.branch_point.value))

    def _take_row(self, history: Any) -> None:
        values = _texts(history.item)
        marker = int(values.get(MARKER, 0))
        step = int(values.get(GLOBAL_STEP, -1)) if marker else -1  # else it is one of the program's own
        self._numbers.append(history.step.num)
        self._steps.append(step)
        self._markers.append(marker)
        if marker:
            self._newest = step, (self._newest[1] | values if self._newest[0] == step else values)

    def rewind(self, number: int) -> None:
        """Forget the rows after W&B's own step `number`."""
        self._newest = (-1, {})
        while self._numbers and self._numbers[-1] > number:
            del self._numbers[-1], self._steps[-1], self._markers[-1]

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of each summary entry, but for W&B's own."""
        return {name: json.loads(text) for name, text in self._summary.items() if not name.startswith("_")}

    @property
    def newest_values(self) -> tuple[int, dict[str, Any]]:
        """The global step of the last row, and the values of that step."""
        step, texts = self._newest
        return step, {name: json.loads(text) for name, text in texts.items()}

    @property
    def last_number(self) -> int:
        """W&B's own step of the last row; -1 where there is none."""
        return self._numbers[-1] if self._numbers else -1

    def last_record(self, *, up_to: int | None = None) -> tuple[int, int]:
        """Return the newest record of the journal in the rows up to W&B's own step `up_to`, and its global step."""
        end = len(self._numbers) if up_to is None else bisect_right(self._numbers, up_to)
        for place in reversed(range(end)):
            if self._markers[place]:
                return self._markers[place], self._steps[place]
        return 0, 0

    def number_before(self, step: int) -> int:
        """Return W&B's own step of the last row before global step `step`; -1 where there is none."""
        own = (place for place, marker in enumerate(self._markers) if marker and self._steps[place] >= step)
        first = next(own, len(self._numbers))
        return self._numbers[first - 1] if first else -1


def run_files(directory: Path, run_id: str) -> list[Path]:
    """Return the files of a run in the directory "wandb", the oldest first."""
    pattern = re.compile(rf"(?:offline-)?run-(\d+_\d+)-{re.escape(run_id)}(?:-(\d+))?")
    found = []
    for path in directory.glob(f"*run-*/run-{run_id}.wandb"):
        if match := pattern.fullmatch(path.parent.name):
            found.append((match.group(1), int(match.group(2) or 0), path))
    return [path for _, _, path in sorted(found)]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the history's rows in a file: the global step, or W&B's own where there is none, and values by name."""
    for record in LogFile(path).read():
        if record.WhichOneof("record_type") == "history":
            row = {name: json.loads(text) for name, text in _texts(record.history.item).items()}
            yield row.get(GLOBAL_STEP, record.history.step.num), row


def _texts(items: Iterable[Any]) -> dict[str, str]:
    """Return values by name, as JSON; nested names are joined."""
    return {item.key or "/".join(item.nested_key): item.value_json for item in items}
