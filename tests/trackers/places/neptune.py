"""Neptune: the SDK's offline files, read by its own reader."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loopwright.trackers.naming import numbers
from tests.trackers import places, readback


class Place(places.Place):
    name = "neptune"

    def environment(self) -> dict[str, str]:
        return {"NEPTUNE_MODE": "offline", "NEPTUNE_DATA_DIRECTORY": str(self.directory / ".neptune")}

    def num_runs(self, out: Path) -> int:
        return len(folders(self.directory / ".neptune"))

    def holds(self, out: Path) -> bool:
        (folder,) = folders(self.directory / ".neptune")
        return series(folder) == expected_series(out) and fields(folder).get("finetuning/train/epoch") == epoch(out)


def folders(directory: Path) -> list[Path]:
    """Return the folders of the runs that are kept offline in a data directory."""
    return sorted((directory / "offline").glob("run__*"))


def operations(folder: Path) -> Iterator[Any]:
    """Yield all operations in the order in which `neptune sync` sends them."""
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import Operation

    queue = DiskQueue(folder, lambda one: one.to_dict(), Operation.from_dict, threading.RLock())
    try:
        while (element := queue.get()) is not None:
            yield element.obj
    finally:
        queue.close()


def series(folder: Path, base: str = "finetuning") -> readback.Points:
    """Return the points of all series."""
    found: readback.Points = {}
    for operation in operations(folder):
        if type(operation).__name__ == "LogFloats":
            name = "/".join(operation.path).removeprefix(f"{base}/")
            for point in operation.values:
                found.setdefault((name, point.step), Counter())[point.value] += 1
    return found


def fields(folder: Path) -> dict[str, Any]:
    """Return the newest value of each field, by its path."""
    kinds = ("AssignFloat", "AssignInt", "AssignString", "AssignBool")
    return {"/".join(one.path): one.value for one in operations(folder) if type(one).__name__ in kinds}


def expected_series(out: Path, run_id: str | None = None) -> readback.Points:
    """Return what counts in the journal and Neptune can hold: no NaN, no infinities, of the epoch the newest alone."""
    found: readback.Points = {}
    for (name, step), values in readback.journal(out, run_id).items():
        kept = Counter({value: number for value, number in values.items() if abs(value) < float("inf")})
        if kept and name != "train/epoch":
            found[name, step] = kept
    return found


def epoch(out: Path) -> float | None:
    """Return the journal's newest epoch."""
    from loopwright.journal.reader import JournalReader

    with JournalReader(out) as reader:
        values = [value for one in reader.records() for name, value in numbers(one.values) if name == "epoch"]
    return values[-1] if values else None
