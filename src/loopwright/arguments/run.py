"""Where a run's files go, what it does, and how it is made repeatable."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.choices import CallbackErrors


@dataclass(init=False, repr=False, eq=False)
class RunArguments:
    """The run as a whole."""

    output_dir: str = "trainer_output"
    """Directory for checkpoints and everything else that the run writes."""

    overwrite_output_dir: bool = False
    """Free for your own script to read; the Trainer deletes nothing that another run wrote, whatever this says."""

    do_train: bool = False
    """Free for your own script to read: whether to train."""

    do_eval: bool = False
    """Free for your own script to read: whether to evaluate. Becomes True where `eval_strategy` is not "no"."""

    do_predict: bool = False
    """Free for your own script to read: whether to predict."""

    resume_from_checkpoint: str | None = None
    """Free for your own script to hand to `trainer.train(resume_from_checkpoint=...)`: a checkpoint's directory."""

    seed: int = 42
    """Seed of every random stream, set when the Trainer is constructed and when training begins."""

    full_determinism: bool = False
    """Use deterministic algorithms only, at a price in speed; what has none raises."""

    callback_errors: CallbackErrors | str = "raise"
    """What to do when a callback of yours raises: "raise" ends the run, "disable" goes on without that callback."""

    debug: str = ""
    """Refused: debug modes of transformers."""

    skip_memory_metrics: bool = True
    """Leave measures of memory out of the metrics; False measures construction, training, evaluation and prediction."""
