"""How the weights move: optimizer, learning rate and regularization."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.annotations import Options
from loopwright.arguments.choices import OptimizerNames, SchedulerType


@dataclass(init=False, repr=False, eq=False)
class OptimizationArguments:
    """Optimizer, schedule and what tempers them."""

    learning_rate: float = 5e-5
    """Learning rate at its highest, after warm-up."""

    lr_scheduler_type: SchedulerType | str = "linear"
    """Course of the learning rate over the training."""

    lr_scheduler_kwargs: Options = None
    """More arguments for the schedule, such as {"num_cycles": 2} for "cosine_with_restarts"; from a command line, as
    JSON."""

    warmup_steps: float = 0
    """Steps during which the learning rate rises from 0; below 1, a share of all steps."""

    optim: OptimizerNames | str = "adamw_torch_fused"
    """Optimizer, by name; any other class goes to the Trainer as `optimizer_cls_and_kwargs` or `optimizers`."""

    optim_args: str | None = None
    """More arguments for the optimizer, written "name=value,name=value"."""

    optim_target_modules: list[str] | str | None = None
    """Refused: the modules that low-rank optimizers treat specially."""

    weight_decay: float = 0.0
    """Weight decay of all parameters but biases and those of normalization layers."""

    adam_beta1: float = 0.9
    """Decay of the running mean of gradients in Adam's family."""

    adam_beta2: float = 0.999
    """Decay of the running mean of squared gradients in Adam's family."""

    adam_epsilon: float = 1e-8
    """Added to the denominator in Adam's family."""

    max_grad_norm: float = 1.0
    """Scale gradients down to this norm where they exceed it; 0 leaves them alone."""

    label_smoothing_factor: float = 0.0
    """Probability taken from the true label and spread over all; 0 is none."""

    neftune_noise_alpha: float | None = None
    """Add uniform noise within so much, divided by sqrt(length x width), to the input embeddings in training (NEFTune);
    None adds none."""
