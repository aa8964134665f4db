"""Loopwright's Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import loopwright
from benchmarks.implementations import trainer_api
from benchmarks.recipe import Job


def train(job: Job) -> None:
    """Train."""
    trainer_api.train(loopwright, job)


def make_event(num_listening: int) -> tuple[Callable[[], object], list[Any]]:
    """Return a call of an event, and the callbacks that count it."""
    return trainer_api.make_event(loopwright, num_listening)
