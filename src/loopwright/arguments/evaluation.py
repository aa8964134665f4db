"""What an evaluation gathers, and what it hands to `compute_metrics`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(init=False, repr=False, eq=False)
class EvaluationArguments:
    """Predictions, labels and metrics."""

    prediction_loss_only: bool = False
    """Compute the loss alone, keeping neither predictions nor labels."""

    eval_accumulation_steps: int | None = None
    """Batches whose outputs gather on the device before they go to the CPU; None gathers all of them there."""

    eval_do_concat_batches: bool = True
    """Join the batches' outputs into one array; otherwise hand them over as lists, batch by batch."""

    eval_spill_dir: str | None = None
    """Loopwright's own: the directory where joined outputs are kept, in files that are gone with the process, for an
    evaluation or a prediction whose outputs the memory can't hold; None keeps them in memory."""

    eval_use_gather_object: bool = False
    """Refused: gathering arbitrary objects from all processes."""

    include_for_metrics: list[str] = field(default_factory=list)
    """What `compute_metrics` gets beside predictions and labels: "inputs", "loss" or both."""

    batch_eval_metrics: bool = False
    """Call `compute_metrics` after every batch, the last time with `compute_result=True`, instead of once at the
    end with everything in memory. A `torchmetrics` object is updated with every batch whatever this says."""
