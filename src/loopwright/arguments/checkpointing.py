"""What a checkpoint holds, which are kept, and how a run continues from one."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.choices import SaveErrors, SignalAction, WhenBusy


@dataclass(init=False, repr=False, eq=False)
class CheckpointingArguments:
    """Contents, rotation, best model and resume."""

    save_total_limit: int | None = None
    """Checkpoints to keep: the newest, among them always the best where there is a `metric_for_best_model`. Pinned
    ones stay beside them. None or 0 keeps all."""

    save_top_k: int | None = None
    """Keep the checkpoints with the so many best values of `metric_for_best_model`, beside the newest and those that
    `save_total_limit` allows; None goes by `save_total_limit` alone."""

    save_every_minutes: float | None = None
    """Save also when so many minutes have passed since the last checkpoint, at the next step's end."""

    max_hours: float | None = None
    """Save and stop before the run has taken so many hours, those of its earlier attempts included. The longest time
    from one step's end to the next one's so far is left as a margin."""

    save_async: bool = False
    """Write checkpoints in a thread of their own: training waits only while the state is copied in memory, which takes
    as much again. `on_save` is called when the checkpoint is on the disk."""

    save_async_busy: WhenBusy | str = "wait"
    """What a save does that comes while `save_async` is still writing the one before: "wait" for it, or "skip"."""

    save_errors: SaveErrors | str = "raise"
    """What to do when a checkpoint can't be written, the disk being full: "raise" ends the run, "warn" goes on without
    it. Earlier checkpoints stand either way."""

    save_on_exception: bool = False
    """Save when training ends with an exception, Ctrl-C included, at the last finished step: no batch is lost, but
    random numbers drawn since then aren't taken back."""

    signal_action: SignalAction | str = "exit"
    """What SIGTERM and SIGUSR1 do to a training: "exit" saves and leaves with 128 plus the signal's number, "return"
    saves and lets `train()` return, "off" leaves signals alone. A second signal ends the process at once."""

    save_only_model: bool = False
    """Save the model alone: smaller, and nothing to resume from."""

    save_on_each_node: bool = False
    """Refused: save on every machine rather than on the first."""

    enable_jit_checkpoint: bool = False
    """transformers' way to ask for a checkpoint when SIGTERM arrives: `signal_action` sees to that in any case."""

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
