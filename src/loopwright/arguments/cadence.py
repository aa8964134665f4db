"""When the run logs, evaluates and saves."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.choices import IntervalStrategy, SaveStrategy


@dataclass(init=False, repr=False, eq=False)
class CadenceArguments:
    """Strategies and step counts; a step is an optimizer update."""

    logging_strategy: IntervalStrategy | str = "steps"
    """When to log: "no", every `logging_steps` "steps", or at the end of each "epoch"."""

    logging_steps: float = 500
    """Steps from one log line to the next; below 1, a share of all steps."""

    logging_first_step: bool = False
    """Log the very first step too."""

    eval_strategy: IntervalStrategy | str = "no"
    """When to evaluate: "no", every `eval_steps` "steps", or at the end of each "epoch"."""

    eval_steps: float | None = None
    """Steps from one evaluation to the next; below 1, a share of all steps; None takes `logging_steps`."""

    eval_delay: float = 0
    """Steps or epochs, as `eval_strategy` counts, to let pass before the first evaluation."""

    eval_on_start: bool = False
    """Evaluate once before the first step, which also shows early whether evaluation works."""

    save_strategy: SaveStrategy | str = "steps"
    """When to save a checkpoint: "no", every `save_steps` "steps", at the end of each "epoch", or at each new "best"
    value of `metric_for_best_model`."""

    save_steps: float = 500
    """Steps from one checkpoint to the next; below 1, a share of all steps."""
