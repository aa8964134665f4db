"""The Trainer of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
import transformers.trainer_callback

from benchmarks.implementations import trainer_api
from benchmarks.recipe import Job


def train(job: Job) -> None:
    """Train."""
    trainer_api.train(transformers, job)


def make_event(num_listening: int) -> tuple[Callable[[], object], list[Any]]:
    """Return a call of an event, and the callbacks that count it."""
    return trainer_api.make_event(transformers.trainer_callback, num_listening)
