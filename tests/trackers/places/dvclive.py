"""DVCLive: a file of rows for each metric."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.trackers import places, readback


class Place(places.Place):
    name = "dvclive"

    def num_runs(self, out: Path) -> int:
        return len(self._folders())

    def holds(self, out: Path) -> bool:
        (folder,) = self._folders()
        return points(folder) == readback.last_of_each(out)

    def _folders(self) -> list[Path]:
        return [path for path in self.directory.glob("dvclive*") if (path / "plots").is_dir()]


def points(folder: Path) -> dict[tuple[str, int], float]:
    """Return (name, step) -> value of all rows in DVCLive's folder."""
    found: dict[tuple[str, int], float] = {}
    metrics = folder / "plots" / "metrics"
    for path in metrics.rglob("*.tsv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                place = (str(path.relative_to(metrics).with_suffix("")), int(row["step"]))
                assert place not in found, f"{place} is there twice"
                found[place] = float(row[path.stem])
    return found
