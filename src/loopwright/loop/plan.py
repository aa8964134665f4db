"""Work out, before the first step, how many steps and epochs a training will do."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loopwright.data.loaders import has_length, num_examples
from loopwright.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How much a training will do.

    Attributes:
        num_epochs: Epochs begun in all (practically endless where the data's length is unknown).
        max_steps: Optimizer updates in all.
        steps_per_epoch: Optimizer updates in a whole epoch.
        batches_per_epoch: Micro-batches in a whole epoch; where unknown, as many as `max_steps` needs.
        accumulation: Micro-batches in an update.
        num_examples: Examples in an epoch.
        num_train_samples: Examples in the whole training.
    """

    num_epochs: int
    max_steps: int
    steps_per_epoch: int
    batches_per_epoch: int
    accumulation: int
    num_examples: int
    num_train_samples: float


def make_plan(args: TrainingArguments, loader: Any, batch_size: int) -> TrainingPlan:
    """Return the plan for training on `loader` under `args`, `batch_size` being that of a micro-batch of all processes.

    Raises:
        ArgumentError: the loader's length is unknown and `max_steps` is not given.
        DataError: the loader is empty.
    """
    if not has_length(loader):
        return _plan_without_length(args, batch_size)
    if len(loader) == 0:
        raise DataError(
            "the training data gives no batch: it is empty, or dataloader_drop_last=True drops the only, short one"
        )
    accumulation = args.gradient_accumulation_steps
    steps_per_epoch = math.ceil(len(loader) / accumulation)
    examples = num_examples(loader, batch_size=batch_size)
    if args.max_steps > 0:
        max_steps = args.max_steps
        num_epochs = math.ceil(max_steps / steps_per_epoch)
        num_train_samples: float = max_steps * batch_size * accumulation
    else:
        max_steps = math.ceil(args.num_train_epochs * steps_per_epoch)
        num_epochs = math.ceil(args.num_train_epochs)
        num_train_samples = examples * args.num_train_epochs
    return TrainingPlan(num_epochs, max_steps, steps_per_epoch, len(loader), accumulation, examples, num_train_samples)


def _plan_without_length(args: TrainingArguments, batch_size: int) -> TrainingPlan:
    if args.max_steps <= 0:
        raise ArgumentError(
            f"max_steps={args.max_steps}: the training data has no length, so give max_steps > 0, which also shapes "
            "the learning rate's course"
        )
    batches = args.max_steps * args.gradient_accumulation_steps
    samples = batches * batch_size
    return TrainingPlan(
        sys.maxsize,
        args.max_steps,
        args.max_steps,
        batches,
        args.gradient_accumulation_steps,
        samples,
        samples,
    )
