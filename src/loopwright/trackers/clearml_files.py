"""Read, mend and pack the folder that a ClearML session is kept in offline.

    <folder>/task.json        what the task is: parameters, artifacts
    <folder>/metrics.jsonl    its points: each line is a JSON list of events
    <folder>/data/            artifacts
    <folder>.zip              all of it, when the run has ended

`Task.import_offline_session` takes the folder as well as the zip.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Beyond that a copy of all checkpoints would take longer than the end of a run may.
_MOST_BYTES_IN_ZIP = 1 << 30
SINGLE_VALUE_STEP = -(2**31)  # what the SDK says where a value belongs to no step


class Point(NamedTuple):
    """What makes two events the same."""

    metric: str
    variant: str
    step: int
    time: int


class Place(NamedTuple):
    """How far the file is known.

    Attributes:
        sequence: All records up to this one are in it.
        size: Its bytes then.
        start: Where points begin that may be those of later records.
    """

    sequence: int = 0
    size: int = 0
    start: int = 0


class OfflineFolder:
    """An offline session's folder.

    Arguments:
        path: The folder.
        is_shared: Whether others may write to it at the same time: then nothing in it is ever taken away.
    """

    def __init__(self, path: Path, *, is_shared: bool) -> None:
        self.path = path
        self.metrics: Path = path / "metrics.jsonl"
        self.zip: Path = path.with_name(f"{path.name}.zip")
        self.is_shared = is_shared

    def restore(self) -> None:
        """Unpack the zip where somebody has deleted the folder."""
        if self.path.exists() or not zipfile.is_zipfile(self.zip):
            return
        unpacked = self.path.with_name(f".{self.path.name}.unpacking")
        shutil.rmtree(unpacked, ignore_errors=True)
        with zipfile.ZipFile(self.zip) as packed:
            packed.extractall(unpacked)
        unpacked.rename(self.path)

    def size(self) -> int:
        """Return how many bytes of points there are."""
        try:
            return self.metrics.stat().st_size
        except FileNotFoundError:
            return 0

    def lines(self, start: int = 0) -> Iterator[tuple[bytes, list[dict[str, Any]]]]:
        """Yield whole lines from `start` on, and their events; none for a line that can't be read."""
        try:
            file = self.metrics.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    yield line, json.loads(line)
                except ValueError:  # torn by a kill or a full disk, and gone on behind it
                    yield line, []

    def points(self, start: int = 0) -> set[Point]:
        """Return the points from the byte `start` on."""
        return {point_of(event) for _, events in self.lines(start) for event in events if "value" in event}

    def mend(self, start: int = 0) -> None:
        """Take a torn line off the end, or end it where others may write: what comes next has a line of its own."""
        size = self.size()
        if size <= start:
            return
        whole = start + sum(len(line) for line, _ in self.lines(start))
        if whole == size:
            return
        if self.is_shared:
            with self.metrics.open("ab") as file:
                file.write(b"\n")
        else:
            os.truncate(self.metrics, whole)

    def drop_points(self, step: int) -> None:
        """Take points from `step` on back, and single values that came after the first of them."""
        new = self.metrics.with_name("metrics.jsonl.new")
        is_behind = False
        with new.open("w", encoding="utf-8") as file:
            for _, events in self.lines():
                kept = []
                for event in events:
                    where = event.get("iter", 0)
                    is_behind = is_behind or where >= step
                    if not (is_behind if where == SINGLE_VALUE_STEP else where >= step):
                        kept.append(event)
                if kept:
                    file.write(json.dumps(kept) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.metrics)

    def pack(self) -> Path:
        """Make the zip, unless there is too much; return what there is to import."""
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file()]
        if sum(path.stat().st_size for path in files) > _MOST_BYTES_IN_ZIP:
            self.zip.unlink(missing_ok=True)
            return self.path
        new = self.zip.with_name(f".{self.zip.name}.new")
        with zipfile.ZipFile(new, "w") as packed:
            for path in files:
                # Artifacts are zips already.
                kind = zipfile.ZIP_STORED if path.suffix == ".zip" else zipfile.ZIP_DEFLATED
                packed.write(path, path.relative_to(self.path).as_posix(), compress_type=kind)
        new.replace(self.zip)
        return self.zip


def point_of(event: dict[str, Any]) -> Point:
    """Return an event's point."""
    return Point(event["metric"], event["variant"], event.get("iter", 0), event["timestamp"])


def size_of(points: Iterable[Point]) -> int:
    """Return how many bytes the events of `points` take in the file, at most."""
    return sum(300 + 6 * (len(point.metric) + len(point.variant)) for point in points)
