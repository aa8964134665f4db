"""The Trainer of transformers."""

from __future__ import annotations

import transformers

from benchmarks.implementations import trainer_api
from benchmarks.recipe import Job


def train(job: Job) -> None:
    """Train."""
    trainer_api.train(transformers, job)
