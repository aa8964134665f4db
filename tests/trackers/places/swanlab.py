"""SwanLab: its offline files, read by its own reader."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.naming import group_name, numbers
from tests.trackers import places

SINGLE_VALUES = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
NAN = "nan"  # equal to itself


class Place(places.Place):
    name = "swanlab"

    def environment(self) -> dict[str, str]:
        return {
            "SWANLAB_MODE": "offline",
            "SWANLAB_LOG_DIR": str(self.directory / "swanlog"),
            "SWANLAB_SAVE_DIR": str(self.directory / "swanlab-home"),
        }

    def num_runs(self, out: Path) -> int:
        return len({path.stem for path in files_in(self.directory / "swanlog")})

    def holds(self, out: Path) -> bool:
        return self.num_runs(out) == 1 and points_in(self.directory / "swanlog") == first_of_each(out)


def files_in(directory: Path) -> list[Path]:
    """Return the files of all sessions, but for those that came to nothing."""
    return sorted(path for path in directory.glob("run-*/*.swanlab") if path.stat().st_size)


def records_in(path: Path) -> Iterator[Any]:
    """Yield the records of a file."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    reader.open(path)
    for data in reader:
        record = Record()
        record.ParseFromString(data)
        yield record
    reader.close()


def points_in(directory: Path) -> dict[tuple[str, int], Any]:
    """Return (name, step) -> value of all files together, in which nothing may be twice."""
    found: dict[tuple[str, int], Any] = {}
    for path in files_in(directory):
        for record in records_in(path):
            if record.HasField("scalar"):
                place = (record.scalar.key, record.scalar.step)
                assert place not in found, f"{place} is there twice"
                found[place] = _comparable(record.scalar.value.number)
    return {place: value for place, value in found.items() if place[0] != "train/global_step"}


def first_of_each(directory: Path) -> dict[tuple[str, int], Any]:
    """Return the journal's points as a service keeps them that takes one value for each name and step: the first."""
    with JournalReader(directory) as reader:
        records = reader.records(kinds=[Kind.LOG, Kind.PREDICTION])
    found: dict[tuple[str, int], Any] = {}
    for record in records:
        for name, value in numbers(record.values):
            shown = f"single_value/{name}" if name in SINGLE_VALUES else group_name(name)
            found.setdefault((shown, record.step), _comparable(float(value)))
    return found


def _comparable(value: float) -> Any:
    return NAN if math.isnan(value) else value
