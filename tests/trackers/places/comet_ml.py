"""Comet: its offline archives, read as `comet upload` does."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.comet_choices import fit_name
from loopwright.trackers.naming import as_float, group_name, numbers
from tests.trackers import places

_WORDS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


class Place(places.Place):
    name = "comet_ml"
    stores_checkpoints = True
    call_seconds = 8  # to load the SDK takes a few seconds

    def environment(self) -> dict[str, str]:
        return {
            "COMET_START_ONLINE": "0",
            "COMET_OFFLINE_DIRECTORY": str(self.directory / "comet"),
            "COMET_CONFIG": str(self.directory / "no-comet.config"),  # of the user's
        }

    def num_runs(self, out: Path) -> int:
        return len({path.name.split("-")[0] for path in archives(self.directory / "comet")})

    def holds(self, out: Path) -> bool:
        return self.num_runs(out) == 1 and points_in(self.directory / "comet") == expected(out)


def archives(directory: Path) -> list[Path]:
    """Return the archives, in the order in which they are to be sent."""
    return sorted(directory.glob("*.zip"))


def messages(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the messages of an archive."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        yield from map(json.loads, archive.read("messages.json").splitlines())


def payloads(directory: Path, kind: str) -> list[dict[str, Any]]:
    """Return the messages of one kind in all archives."""
    return [one["payload"] for path in archives(directory) for one in messages(path) if one["type"] == kind]


def points_in(directory: Path) -> dict[tuple[str, int], Counter[str]]:
    """Return (name, step) -> values, as text: NaN is none of its own kind else."""
    found: dict[tuple[str, int], Counter[str]] = {}
    for payload in payloads(directory, "metric_msg"):
        metric = payload["metric"]
        value = _WORDS.get(metric["metricValue"]) or repr(float(metric["metricValue"]))
        found.setdefault((metric["metricName"], metric["step"]), Counter())[value] += 1
    return found


def expected(out: Path) -> dict[tuple[str, int], Counter[str]]:
    """Return what counts in the journal."""
    with JournalReader(out) as reader:
        records = reader.records(kinds=[Kind.LOG, Kind.PREDICTION])
    found: dict[tuple[str, int], Counter[str]] = {}
    for record in records:
        for name, value in numbers(record.values):
            found.setdefault((fit_name(group_name(name)), record.step), Counter())[repr(as_float(value))] += 1
    return found


def others_in(directory: Path) -> dict[str, Any]:
    """Return what is noted beside parameters and metrics, the newest of each."""
    return {payload["key"]: payload["value"] for payload in payloads(directory, "log_other")}


def files_in(path: Path) -> dict[str, bytes]:
    """Return the files that an archive stores, by their names in Comet."""
    with zipfile.ZipFile(path) as archive:
        return {
            one["payload"]["additional_params"]["fileName"]: archive.read(one["payload"]["file_path"])
            for one in messages(path)
            if one["type"] == "file_upload"
        }
