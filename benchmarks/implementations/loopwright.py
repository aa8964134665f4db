"""Loopwright's Trainer."""

from __future__ import annotations

import loopwright
from benchmarks.implementations import trainer_api
from benchmarks.recipe import Job


def train(job: Job) -> None:
    """Train."""
    trainer_api.train(loopwright, job)
