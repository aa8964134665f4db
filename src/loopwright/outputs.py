"""The values that the Trainer hands back, and those it hands to `compute_metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class EvalPrediction:
    """What `compute_metrics` receives: predictions and labels of a whole evaluation (or of one batch).

    Arguments and attributes:
        predictions: The model's outputs: an array of shape (examples, ...), or a tuple of such.
        label_ids: The labels: an array of shape (examples, ...), or a tuple of such.
        inputs: The model's main input, where `include_for_metrics` names "inputs"; else None.
        losses: One loss per example, shape (examples,), where `include_for_metrics` names "loss"; else None.

    Unpacks and indexes as `(predictions, label_ids[, inputs][, losses])`, leaving out what is None.
    """

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None) -> None:
        self.predictions = predictions
        self.label_ids = label_ids
        self.inputs = inputs
        self.losses = losses
        optional = tuple(value for value in (inputs, losses) if value is not None)
        self.elements: tuple[Any, ...] = (predictions, label_ids, *optional)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.elements)

    def __getitem__(self, index: int) -> Any:
        return self.elements[index]


class EvalLoopOutput(NamedTuple):
    """What `Trainer.evaluation_loop` returns: arrays of shape (examples, ...), metrics, and the number of examples."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None
    num_samples: int | None


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` returns: arrays of shape (examples, ...), and metrics where there were labels."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None


class BestRun(NamedTuple):
    """What `Trainer.hyperparameter_search` returns; a list of them, one for each best trade-off, of several objectives.

    Attributes:
        run_id: The trial's number, as text; its checkpoints are in the folder `run-<run_id>`, or what `hp_name` says.
        objective: What it reached; a list of several objectives.
        hyperparameters: What it was tried with, by name.
        run_summary: None: Optuna's storage holds everything else.
    """

    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, Any]
    run_summary: Any = None


class TrainOutput(NamedTuple):
    """What `Trainer.train` returns: optimizer updates done in all, mean training loss, and the run's metrics."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]
