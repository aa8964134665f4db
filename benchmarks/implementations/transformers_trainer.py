"""The Trainer of transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import transformers
import transformers.trainer_callback

from benchmarks.implementations import trainer_api
from benchmarks.recipe import Job, check_counts
from benchmarks.settings import DEAD, SLOW, SLOW_SECONDS


def train(job: Job) -> None:
    """Train; a tracker is a callback that calls its service in `on_log`, as those of transformers do."""
    if job.setting.service == DEAD:
        raise ValueError("a callback whose service is dead raises, which ends the training")
    reporting = [_make_tracker(number, job.setting.service) for number in range(job.setting.trackers)]
    trainer_api.train(transformers, job, reporting)
    # Besides the steps' lines there is one at the end.
    check_counts(reporting, job.steps // job.setting.log_every + 1)


def make_event(num_listening: int) -> tuple[Callable[[], object], list[Any]]:
    """Return a call of an event, and the callbacks that count it."""
    return trainer_api.make_event(transformers.trainer_callback, num_listening)


def _make_tracker(number: int, service: str) -> Any:
    seconds = SLOW_SECONDS if service == SLOW else 0.0
    members = {"num_calls": 0, "seconds": seconds, "on_log": _on_log}
    return type(f"Reporting{number}", (transformers.TrainerCallback,), members)()


def _on_log(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    self.num_calls += 1
    if self.seconds:
        time.sleep(self.seconds)
