"""Loopwright's Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loopwright
from benchmarks.implementations import trainer_api
from benchmarks.recipe import Job
from benchmarks.settings import DEAD, Setting
from benchmarks.slow_tracker import SlowTracker, refusing_port
from loopwright.delivery.store import Delivered, read_delivered
from loopwright.journal.reader import JournalReader

_OPEN_SECONDS = 30.0
# What is left at the end stays in the journal: nobody waits for a dead service here.
_CLOSE_SECONDS = 0.5


def train(job: Job) -> None:
    """Train, with trackers that are at work before the first step."""
    trackers = _make_trackers(job.setting)
    waiting = [UntilTrackersAreOpen(len(trackers))] if trackers else []
    trainer = trainer_api.train(loopwright, job, [*trackers, *waiting], tracker_close_timeout=_CLOSE_SECONDS)
    # Its delivery would stay, for an evaluation that may follow, and disturb the next training.
    trainer.reporting.close()
    if trackers:
        check_deliveries(job.output_dir, job.setting)


def make_event(num_listening: int) -> tuple[Callable[[], object], list[Any]]:
    """Return a call of an event, and the callbacks that count it."""
    return trainer_api.make_event(loopwright, num_listening)


def _make_trackers(setting: Setting) -> list[SlowTracker]:
    port = refusing_port() if setting.service == DEAD else 0
    return [SlowTracker(setting.service, port, in_process=setting.in_process) for _ in range(setting.trackers)]


class UntilTrackersAreOpen(loopwright.TrainerCallback):
    """Waits before the first step until every tracker is open or has failed to: a short training would end before that.

    Arguments:
        number: How many trackers there are.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait."""
        until = time.monotonic() + _OPEN_SECONDS
        while sum(_is_at_work(one) for one in _deliveries(Path(args.output_dir))) < self.number:
            if time.monotonic() > until:
                raise TimeoutError(f"the trackers were not open after {_OPEN_SECONDS:.0f} s")
            time.sleep(0.05)


def check_deliveries(output_dir: Path, setting: Setting) -> None:
    """Make sure that the trackers met what the setting says: one that is left out would look as if it were free.

    Raises:
        RuntimeError: one has delivered nothing, or to a dead service.
    """
    found = _deliveries(output_dir)
    if len(found) != setting.trackers or not all(_met(one, setting.service) for one in found):
        raise RuntimeError(f"{setting.trackers} {setting.service} trackers ended as {found}")


def _deliveries(output_dir: Path) -> list[Delivered]:
    with JournalReader(output_dir) as reader:
        return [read_delivered(output_dir, entry.run_id, entry.tracker) for entry in reader.sinks()]


def _met(delivered: Delivered, service: str) -> bool:
    if service == DEAD:
        return delivered.error is not None and delivered.cursor == 0
    return delivered.error is None and delivered.cursor > 0


def _is_at_work(delivered: Delivered) -> bool:
    return delivered.error is not None or not delivered.was_closed
