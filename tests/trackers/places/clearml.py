"""ClearML: the folders of its offline sessions, as `Task.import_offline_session` reads them."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.naming import group_name, numbers
from tests.trackers import places

SINGLE_VALUES = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
NO_STEP = -(2**31)


class Place(places.Place):
    name = "clearml"
    call_seconds = 5

    def environment(self) -> dict[str, str]:
        return {
            "CLEARML_OFFLINE_MODE": "1",
            "CLEARML_CACHE_DIR": str(self.directory / "clearml-cache"),
            "CLEARML_CONFIG_FILE": str(self.directory / "no-clearml.conf"),
        }

    def num_runs(self, out: Path) -> int:
        return len(folders_in(self.directory / "clearml-cache"))

    def holds(self, out: Path) -> bool:
        (folder,) = folders_in(self.directory / "clearml-cache")
        return points_in(folder) == points_of_journal(out) and zip_is_whole(folder)


def folders_in(cache: Path) -> list[Path]:
    """Return the sessions' folders."""
    return sorted(path for path in (cache / "offline").glob("*") if path.is_dir())


def events_in(folder: Path) -> list[dict[str, Any]]:
    """Return all events, which have to be whole."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for line in lines for event in json.loads(line)]


def points_in(folder: Path) -> Counter[tuple[Any, ...]]:
    """Return how often each (title, series, step, time in ms, value) is there."""
    names = ("metric", "variant", "iter", "timestamp", "value")
    return Counter(tuple(event[name] for name in names) for event in events_in(folder))


def points_of_journal(directory: Path, run_id: str | None = None) -> Counter[tuple[Any, ...]]:
    """Return the journal's points as ClearML is to hold them."""
    with JournalReader(directory) as reader:
        records = reader.records(run_id, kinds=[Kind.LOG, Kind.PREDICTION])
    found: Counter[tuple[Any, ...]] = Counter()
    for record in records:
        is_last = bool(SINGLE_VALUES & record.values.keys())
        for name, number in numbers(record.values):
            value = float(number)
            assert math.isfinite(value), "see the tests of those"
            time = round(record.time * 1000)
            if name in SINGLE_VALUES or (is_last and name == "epoch"):
                found["Summary", name, NO_STEP, time, value] += 1
            else:
                title, _, series = group_name(name).partition("/")
                found[title, series, record.step, time, value] += 1
    return found


def zip_is_whole(folder: Path) -> bool:
    """Return whether the session's zip holds what its folder holds."""
    with zipfile.ZipFile(folder.with_name(f"{folder.name}.zip")) as packed:
        held = {name: packed.read(name) for name in packed.namelist()}
    files = (path for path in folder.rglob("*") if path.is_file())
    return held == {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def task_in(folder: Path) -> dict[str, Any]:
    """Return what the task is."""
    task: dict[str, Any] = json.loads((folder / "task.json").read_text())
    return task


def parameters_in(folder: Path) -> dict[str, str]:
    """Return "section/name" -> value."""
    sections = task_in(folder)["hyperparams"]
    return {f"{section}/{name}": item["value"] for section, items in sections.items() for name, item in items.items()}
