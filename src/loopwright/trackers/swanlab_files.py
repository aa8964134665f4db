"""Read what a SwanLab run's local file holds, by SwanLab's own reader, also while it grows or ends in a torn record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def run_files(log_dir: Path, run_id: str) -> list[Path]:
    """Return the files of all sessions with a run, the oldest first."""
    return sorted(log_dir.glob(f"run-*/run-{run_id}.swanlab"))


class Points:
    """Which metrics have a value at which steps; a run of millions of steps takes little memory."""

    def __init__(self) -> None:
        self._steps: dict[str, Any] = {}

    def add(self, name: str, step: int) -> bool:
        """Add a point; return whether it is a new one."""
        from pyroaring import BitMap64  # comes with SwanLab, which keeps steps in it too

        steps = self._steps.setdefault(name, BitMap64())
        if step in steps:
            return False
        steps.add(step)
        return True

    def add_all(self, scalars: Iterable[Any]) -> None:
        """Add the points of scalar records."""
        for scalar in scalars:
            self.add(scalar.key, scalar.step)

    def __len__(self) -> int:
        return sum(map(len, self._steps.values()))


class RunFile:
    """A run's file, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = 0

    def scalars(self) -> list[Any]:
        """Return the scalar records that are whole, and haven't been read."""
        from swanlab.sdk.internal.core_python.store import DataStoreReader

        reader = DataStoreReader()
        try:
            reader.open(self.path)
        except FileNotFoundError:
            return []
        except AssertionError:  # not even its head is there
            reader.close()
            return []
        try:
            return list(self._read(reader))
        finally:
            reader.close()

    def _read(self, reader: Any) -> Iterator[Any]:
        from swanlab.proto.swanlab.record.v1.record_pb2 import Record

        self._place = reader._index = max(self._place, reader._index)
        reader._fp.seek(self._place)
        while True:
            try:
                data = reader.scan()
            except Exception:  # assertions and index errors among them: the end is not written yet, or never will be
                return
            if data is None:
                return
            self._place = reader._index  # only now: part of a record may have been read before
            record = Record()
            record.ParseFromString(data)
            if record.HasField("scalar"):
                yield record.scalar
