"""Trackio: its local database, read by SQLite."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from tests.trackers import places, readback


class Place(places.Place):
    name = "trackio"

    def environment(self) -> dict[str, str]:
        return {"TRACKIO_DIR": str(self.directory / "trackio"), "HF_HUB_OFFLINE": "1"}

    def num_runs(self, out: Path) -> int:
        return len({row["run_id"] for row in self.rows()})

    def holds(self, out: Path) -> bool:
        return self.num_runs(out) == 1 and points(self.rows()) == readback.journal(out)

    def rows(self) -> list[dict[str, Any]]:
        return rows_in(self.directory / "trackio")


def rows_in(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of all projects, in their order."""
    return [row | {"metrics": json.loads(row["metrics"])} for row in _select(directory, "metrics")]


def configs_in(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the runs' configurations, by the runs' names."""
    return {row["run_name"]: json.loads(row["config"]) for row in _select(directory, "configs")}


def _select(directory: Path, table: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted(directory.glob("*.db")):
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        found += [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]
        connection.close()
    return found


def points(rows: list[dict[str, Any]]) -> readback.Points:
    """Return the numbers in rows."""
    found: readback.Points = {}
    for row in rows:
        for name, value in row["metrics"].items():
            number = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
            if name != "train/global_step" and isinstance(number, (int, float)):
                found.setdefault((name, row["step"]), Counter())[float(number)] += 1
    return found
