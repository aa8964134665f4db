"""CodeCarbon: a table with a row for each session that was long enough to be measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from loopwright.delivery.store import read_delivered
from loopwright.journal.reader import JournalReader
from tests.trackers import places


class Place(places.Place):
    name = "codecarbon"
    tells_runs_apart = False
    is_shared = False
    call_seconds = 8  # to start the meter takes a few seconds

    def environment(self) -> dict[str, str]:
        return {"CODECARBON_COUNTRY_ISO_CODE": "FRA"}

    def num_runs(self, out: Path) -> int:
        return 1

    def holds(self, out: Path) -> bool:
        """Return whether the table holds what was measured, each session once."""
        with JournalReader(out) as reader:
            run = reader.runs()[-1]
        before = read_delivered(out, run.id, "codecarbon").reference.get("before") or {}
        found = rows(out)
        sessions = [row["run_id"] for row in found]
        total = sum(float(row["emissions"]) for row in found)
        return len(set(sessions)) == len(sessions) and total == pytest.approx(before.get("emissions_kg", 0.0))


def rows(out: Path) -> list[dict[str, str]]:
    """Return the rows of a training's table."""
    path = out / "emissions.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
