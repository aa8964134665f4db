"""What a checkpoint holds, which are kept, and how a run continues from one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(init=False, repr=False, eq=False)
class CheckpointingArguments:
    """Contents, rotation, best model and resume."""

    save_total_limit: int | None = None
    """Checkpoints to keep: the newest, and the best where `load_best_model_at_end` is set. None or 0 keeps all."""

    save_only_model: bool = False
    """Save the model alone: smaller, and nothing to resume from."""

    save_on_each_node: bool = False
    """Refused: save on every machine rather than on the first."""

    enable_jit_checkpoint: bool = False
    """Refused: save a checkpoint when SIGTERM arrives."""

    load_best_model_at_end: bool = False
    """Load the best checkpoint when training ends. Saves have to fall on evaluations for that."""

    metric_for_best_model: str | None = None
    """Metric that says which model is best, with or without the prefix "eval_". "loss" where one is needed and none
    given."""

    greater_is_better: bool | None = None
    """Whether more of `metric_for_best_model` is better; None means yes unless its name ends in "loss"."""

    ignore_data_skip: bool = False
    """Resume at the beginning of the data rather than where it stopped: not the same training then."""

    restore_callback_states_from_checkpoint: bool = True
    """Give callbacks back their states when resuming. On here, off in transformers."""
