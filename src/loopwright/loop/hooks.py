"""What the loops need of a Trainer: so that they can sit a floor below it, and so that overrides are honoured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from loopwright.arguments import TrainingArguments
    from loopwright.callbacks.dispatcher import CallbackHandler
    from loopwright.loop.saving import Saving
    from loopwright.loop.train import TrainingLoop
    from loopwright.loop.update import Update
    from loopwright.records import Status, Trial
    from loopwright.runtime.precision import Precision
    from loopwright.runtime.ranks import Ranks
    from loopwright.state import TrainerControl, TrainerState


class Reports(Protocol):
    """The part of `trackers.reporting.Reporting` that training uses; it stands beside this room."""

    def begin(
        self,
        purpose: str = "training",
        *,
        first_step: int = 0,
        resumed_at: Mapping[str, Any] | None = None,
        parent: tuple[str, int] | None = None,
    ) -> None:
        """Begin an attempt of the run, and open its trackers."""
        ...

    def take_back(self, reason: str, resumed_at: Mapping[str, Any] | None) -> None:
        """Let what the attempt has recorded after `resumed_at` count no longer, and begin another one."""
        ...

    def note_resumed(self, checkpoint: Path) -> None:
        """Record the checkpoint gone on from, where that is missing."""
        ...

    def end(self, status: Status, reason: str | None = None) -> None:
        """Record how the attempt ended, and let trackers deliver what is left."""
        ...

    def note_checkpoint(self, path: Path, step: int | None = None) -> None:
        """Record a checkpoint that is on the disk."""
        ...

    def note_costs(self, account: Mapping[str, Any]) -> None:
        """Record where the attempt's time went so far."""
        ...

    def checkpoints_in_use(self) -> list[Path]:
        """Return the checkpoints that a tracker has still to take."""
        ...

    def whereabouts(self, *, syncs: bool = True) -> dict[str, Any] | None:
        """Return what a checkpoint keeps of the journal, which is on the disk then if `syncs`."""
        ...

    def sync_beside(self) -> None:
        """Bring the journal onto the disk from another thread."""
        ...


class Judges(Protocol):
    """The part of `search.study.HyperparameterSearch` that training uses; it stands beside this room."""

    def judge(self, metrics: Mapping[str, float]) -> None:
        """Take what an evaluation inside the training measured; the trial may be stopped for it."""
        ...


class TrainingHooks(Protocol):
    """The part of `Trainer` that training and evaluation use."""

    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    model: nn.Module
    model_wrapped: nn.Module
    optimizer: Any
    lr_scheduler: Any
    precision: Precision
    compute_metrics: Any
    preprocess_logits_for_metrics: Any
    label_names: list[str]
    labels_are_shifted: bool
    current_update: Update | None
    ranks: Ranks
    _train_batch_size: int
    current_gradient_accumulation_steps: int
    processing_class: Any
    run_id: str
    callbacks_at_start: dict[str, Any]
    is_in_train: bool
    training_loop: TrainingLoop | None
    saving: Saving
    trial: Trial | None
    search: Judges | None

    @property
    def reporting(self) -> Reports:
        """Journal and trackers."""
        ...

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], torch.Tensor | None]:
        """Return the next micro-batches and the number of their items."""
        ...

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Do forward and backward of a micro-batch; return its share of the update's loss."""
        ...

    def floating_point_ops(self, inputs: Any) -> float | None:
        """Return the operations of a micro-batch; None to have them counted."""
        ...

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Return loss, logits and labels of a batch."""
        ...

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate and return the metrics."""
        ...

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Make a log line."""
        ...

    def save_checkpoint(self) -> Any:
        """Save a checkpoint of this moment."""
        ...

    def _prepare_input(self, data: Any) -> Any: ...
