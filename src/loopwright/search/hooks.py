"""What a search needs of a Trainer: so that it can sit a floor below it, and so that overrides are honoured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.callbacks.dispatcher import CallbackHandler
    from loopwright.records import Decision, Trial
    from loopwright.runtime.precision import Precision
    from loopwright.state import TrainerControl, TrainerState


class Reports(Protocol):
    """The part of `trackers.reporting.Reporting` that a search uses; it stands beside this room."""

    def decide(self, decision: Decision) -> None:
        """Record who set a flag."""
        ...

    def close(self) -> None:
        """End what is under way, and let everything go."""
        ...


class SearchHooks(Protocol):
    """The part of `Trainer` that a search uses."""

    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    precision: Precision
    model_init: Any
    optimizer: Any
    lr_scheduler: Any
    training_loop: Any
    run_id: str
    has_trained: bool
    is_in_train: bool
    trial: Trial | None
    search: Any

    @property
    def reporting(self) -> Reports:
        """Journal and trackers."""
        ...

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None) -> Any:
        """Train."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Evaluate and return the metrics."""
        ...

    def is_world_process_zero(self) -> bool:
        """Return whether this is the first process of all."""
        ...
