"""Read what services hold with their own readers: (name, step) -> values, each as often as it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.naming import group_name, numbers

Points = dict[tuple[str, int], Counter[float]]


def journal(directory: Path, run_id: str | None = None) -> Points:
    """Return the numbers that count in a journal."""
    return _counted((name, step, value) for name, step, _, value in _numbers(directory, run_id))


def journal_by_millisecond(directory: Path) -> Points:
    """Return them as a service keeps them to which the same value at the same step and millisecond is one point."""
    once = {(name, step, int(moment * 1000), value) for name, step, moment, value in _numbers(directory, None)}
    return _counted((name, step, value) for name, step, _, value in once)


def _numbers(directory: Path, run_id: str | None) -> Iterator[tuple[str, int, float, float]]:
    with JournalReader(directory) as reader:
        records = reader.records(run_id, kinds=[Kind.LOG])
    for record in records:
        for name, value in numbers(record.values):
            yield group_name(name), record.step, record.time, float(value)


def _counted(points: Iterable[tuple[str, int, float]]) -> Points:
    found: Points = {}
    for name, step, value in points:
        found.setdefault((name, step), Counter())[value] += 1
    return found


def tensorboard(directory: Path) -> Points:
    """Return the scalars that TensorBoard's own reader finds in the only folder of event files below `directory`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in directory.rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    found: Points = {}
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            found.setdefault((tag, event.step), Counter())[event.value] += 1
    return found


def as_float32(points: Points) -> Points:
    """Return the points as TensorBoard keeps them."""
    return {place: Counter(float(np.float32(value)) for value in values.elements()) for place, values in points.items()}


def mlflow_runs(tracking_uri: str) -> list[Any]:
    """Return all runs of a store."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    return [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]


def mlflow(tracking_uri: str) -> Points:
    """Return the metrics of the only run of a store."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    runs = mlflow_runs(tracking_uri)
    assert len(runs) == 1, f"{len(runs)} runs"
    found: Points = {}
    for name in runs[0].data.metrics:
        for metric in client.get_metric_history(runs[0].info.run_id, name):
            found.setdefault((name, metric.step), Counter())[metric.value] += 1
    return found


def wandb(directory: Path) -> dict[tuple[str, int], float]:
    """Return the union of the history rows in all local files of W&B's only run: (name, step) -> value."""
    from loopwright.trackers.wandb_files import read_rows

    found: dict[tuple[str, int], float] = {}
    for path in sorted(directory.rglob("*.wandb")):
        for step, row in read_rows(path):
            for name, value in row.items():
                if not name.startswith("_") and name != "train/global_step" and isinstance(value, (int, float)):
                    place = (name, step)
                    assert place not in found, f"{name} is twice at step {step}"
                    found[place] = float(value)
    return found


def last_of_each(directory: Path) -> dict[tuple[str, int], Any]:
    """Return the journal's points as a service keeps them that holds one value for each name and step: the last."""
    with JournalReader(directory) as reader:
        records = reader.records(kinds=[Kind.LOG])
    return {
        (group_name(name), record.step): float(value) for record in records for name, value in numbers(record.values)
    }
