"""Journals to deliver to W&B, and a reader of what its local files hold."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.delivery.store import read_delivered
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Record, Status
from loopwright.trackers.naming import group_name
from loopwright.trackers.wandb import WandbCallback
from loopwright.trackers.wandb_files import GLOBAL_STEP, LogFile, read_rows
from loopwright.trackers.wandb_session import flat
from tests.trackers.journals import ServiceJournal

# (global step, name, value as text), each as often as it is there
Points = Counter[tuple[int, str, str]]


class Journal(ServiceJournal):
    """A journal for W&B."""

    tracker_class = WandbCallback

    def log(self, first: int, last: int, **values: Any) -> None:
        """Record lines of the steps from `first` to `last`."""
        for step in range(first, last + 1):
            line = {"loss": 1.0 / (step + 1), "grad_norm": float(step), "epoch": step / 10, **values}
            self.recorder.record(Kind.LOG, step, line)

    def checkpoint(self, step: int) -> Path:
        """Write a small checkpoint and record it."""
        path = self.directory / f"checkpoint-{step}"
        path.mkdir()
        (path / "weights.bin").write_bytes(bytes([step]) * 1000)
        (path / "state.json").write_text(f'{{"step": {step}}}')
        self.note(Kind.CHECKPOINT, step, {"path": path.name})
        return path

    def deliver(self, status: Status | None = None) -> str | None:
        """Deliver what is left; return what stands in the way."""
        worker = self.start_worker(status=status)
        worker.finish()
        wait_for(lambda: worker.is_done)
        assert worker.join(10)
        return worker.error

    def follow(self) -> subprocess.Popen[bytes]:
        """Start the delivery process that a training starts; closing its standard input asks it to end."""
        command = [sys.executable, "-m", "loopwright", "sync", str(self.directory), "--follow"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def sync(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Let the journal go, and run `loopwright sync` on it."""
        self.recorder.close()
        command = [sys.executable, "-m", "loopwright", "sync", str(self.directory), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def whole_run(self, last: int = 3, **values: Any) -> str | None:
        """Record and deliver a whole attempt; return what stands in the way."""
        self.begin()
        self.log(1, last, **values)
        self.end()
        return self.deliver()

    def reader(self) -> JournalReader:
        return JournalReader(self.directory)

    @property
    def reference(self) -> dict[str, Any]:
        return read_delivered(self.directory, self.run.id, "wandb").reference

    @property
    def cursor(self) -> int:
        return read_delivered(self.directory, self.run.id, "wandb").cursor

    def points(self) -> Points:
        """Return what W&B has to hold: each point once."""
        return recorded_points(self.directory)


@dataclass
class Found:
    """What W&B's local files hold together."""

    files: list[Path]
    points: Points = field(default_factory=Counter)
    run: Any = None  # the newest file's message
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int | None] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    is_preempting: bool = False


def recorded_points(directory: Path, run_id: str | None = None, tracker: str | None = None) -> Points:
    """Return the points that count in a journal, each once."""
    with JournalReader(directory) as reader:
        return points_in(reader.records(run_id, kinds=[Kind.LOG, Kind.PREDICTION], tracker=tracker))


def points_in(records: Iterable[Record]) -> Points:
    """Return the points in records, each once."""
    shown = {
        (record.step, group_name(name), as_text(value)) for record in records for name, value in flat(record.values)
    }
    return Counter(shown)


def points_of(rows: list[dict[str, Any]]) -> Points:
    """Return the points in rows of W&B's history."""
    return Counter(
        (row[GLOBAL_STEP], name, as_text(value))
        for row in rows
        for name, value in row.items()
        if name[0] != "_" and name != GLOBAL_STEP
    )


def as_text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, (int, float)) else repr(value)


def local_files(directory: Path = Path()) -> Found:
    """Read all of W&B's local files below a directory, the oldest first."""
    files = sorted(directory.glob("wandb/*run-*/*.wandb"), key=when_begun)
    found = Found(files)
    for path in files:
        found.rows += [row for _, row in read_rows(path)]
        found.exit_codes.append(None)
        for record in LogFile(path).read():
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found.run = record.run
            if kind in {"run", "config"}:
                changes = record.run.config if kind == "run" else record.config
                found.config |= decoded(changes.update)
            elif kind == "summary":
                found.summary |= decoded(record.summary.update)
            elif kind == "artifact":
                found.artifacts.append(record.artifact)
            elif kind == "metric":
                found.metrics.append(record.metric)
            elif kind == "preempting":
                found.is_preempting = True
            elif kind == "exit":
                found.exit_codes[-1] = record.exit.exit_code
    found.points = points_of(found.rows)
    return found


def when_begun(path: Path) -> tuple[str, int]:
    """Return a sort key of a run's file: W&B's directories carry a second, and a number within it."""
    moment, number = re.fullmatch(r"(?:offline-)?run-(\d+_\d+)-.+?(?:-(\d))?", path.parent.name).groups()
    return moment, int(number or 0)


def decoded(items: Any) -> dict[str, Any]:
    """Return values by name, as W&B's messages hold them."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
