"""What every implementation has to train: the job, and the parts that all of them share.

AdamW (fused), gradients clipped at 1.0, a linear decay to zero, one collate function, one model, one seed: the
defaults of `TrainingArguments`, spelled out for those who have to be told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from benchmarks.settings import Setting
from benchmarks.workloads import Examples, TimedModel

LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
SEED = 42


@dataclass(frozen=True)
class Job:
    """One training: a setting with its parts made."""

    setting: Setting
    model: TimedModel
    dataset: Examples
    batch_size: int
    steps: int
    output_dir: Path


def make_loader(job: Job) -> DataLoader[Any]:
    """Return the loader that those implementations get which take one."""
    return DataLoader(job.dataset, job.batch_size, shuffle=job.setting.shuffle, collate_fn=collate)


def make_optimizer(job: Job) -> AdamW:
    """Return the optimizer that is the default of `TrainingArguments`."""
    return AdamW(job.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)


def make_scheduler(job: Job, optimizer: Optimizer) -> LambdaLR:
    """Return a linear decay to zero."""
    return LambdaLR(optimizer, lambda step: max(0.0, (job.steps - step) / job.steps))


def check_counts(counters: Iterable[Any], expected: int) -> None:
    """Make sure that every counting callback was called: one that a library leaves out would look as if it were free.

    Raises:
        RuntimeError: `num_calls` of one isn't `expected`.
    """
    if wrong := [counter.num_calls for counter in counters if counter.num_calls != expected]:
        raise RuntimeError(f"counting callbacks were called {wrong} times instead of {expected}")


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack the examples."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def write_log_line(step: int, values: dict[str, float]) -> None:
    """Write a log line as a hand-written loop does: one formatted line to the terminal."""
    line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    sys.stdout.write(f"step {step}  {line}\n")
    sys.stdout.flush()
