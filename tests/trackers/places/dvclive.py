"""DVCLive: a directory of plain files beside the program, in a DVC repository without Git."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.naming import numbers
from tests.trackers import places


class Place(places.Place):
    name = "dvclive"
    stores_checkpoints = True
    call_seconds = 8  # to load DVC takes a few seconds

    def environment(self) -> dict[str, str]:
        (self.directory / ".dvc").mkdir(exist_ok=True)
        (self.directory / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
        return {"HF_DVCLIVE_LOG_MODEL": "all"}

    def num_runs(self, out: Path) -> int:
        return len(list(self.directory.glob("dvclive*")))

    def holds(self, out: Path) -> bool:
        (directory,) = self.directory.glob("dvclive*")
        return read_back(directory) == recorded(out)


def read_back(directory: Path) -> dict[tuple[str, int], Counter[str]]:
    """Return the rows of all metrics: (name, step) -> values, each as often as it is there."""
    metrics = directory / "plots" / "metrics"
    found: dict[tuple[str, int], Counter[str]] = {}
    for path in metrics.rglob("*.tsv"):
        name = str(path.relative_to(metrics)).removesuffix(".tsv")
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                found.setdefault((name, int(row["step"])), Counter())[row[path.stem]] += 1
    return found


def recorded(out: Path, run_id: str | None = None) -> dict[tuple[str, int], Counter[str]]:
    """Return the numbers that count in a journal as DVCLive keeps them: one for each step, the last."""
    with JournalReader(out) as reader:
        records = reader.records(run_id, kinds=[Kind.LOG])
    return {
        (name.replace("eval_", "eval/").replace("train_", "train/"), record.step): Counter([str(value)])
        for record in records
        for name, value in numbers(record.values)
    }
