"""How many examples go into a step, and how many steps into a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(init=False, repr=False, eq=False)
class BatchingArguments:
    """Batch sizes, accumulation and length of the training."""

    per_device_train_batch_size: int = 8
    """Examples in a training micro-batch, per device."""

    per_device_eval_batch_size: int = 8
    """Examples in a batch of evaluation or prediction, per device."""

    gradient_accumulation_steps: int = 1
    """Micro-batches whose gradients make one optimizer update. A step, wherever steps are counted, is an update."""

    num_train_epochs: float = 3.0
    """Passes over the training data; a fraction ends in the middle of the last pass."""

    max_steps: int = -1
    """Optimizer updates to do in all; above 0 it takes precedence over `num_train_epochs`. Needed for data without a
    length."""

    average_tokens_across_devices: bool = True
    """Divide the loss by the number of tokens in the step on all processes rather than on this one."""

    auto_find_batch_size: bool = False
    """Begin again with half the batch size where memory runs out in one of the first ten updates."""
