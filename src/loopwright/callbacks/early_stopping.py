"""Stop training when a metric has stopped improving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger
from loopwright.callbacks.base import TrainerCallback
from loopwright.errors import ArgumentError
from loopwright.state import ExportableState

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Stops training once `metric_for_best_model` has failed to improve often enough in a row.

    It acts at the evaluation that decides, not at the next save. How far its patience has worn goes into every
    checkpoint and comes back at a resume.

    Arguments:
        early_stopping_patience: Evaluations in a row without improvement after which training stops.
        early_stopping_threshold: By how much the metric must beat the best so far to count as improved.

    Example:
        ```python
        args = TrainingArguments("out", eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
        Trainer(model, args, ..., callbacks=[EarlyStoppingCallback(early_stopping_patience=3)])
        ```
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        if early_stopping_patience < 1:
            raise ArgumentError(f"early_stopping_patience={early_stopping_patience!r}: expected a whole number >= 1")
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.early_stopping_patience_counter: int = 0

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Start the count anew if `metric_value` beats the best so far by the threshold; else count one more."""
        if self._improves(args, state.best_metric, metric_value):
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1

    def _improves(self, args: TrainingArguments, best: float | None, value: float) -> bool:
        if best is None:
            return True
        gain = value - best if args.greater_is_better else best - value
        return gain > 0 and gain > (self.early_stopping_threshold or 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the arguments give early stopping something to judge by.

        Raises:
            ArgumentError: there is no metric, or no evaluation.
        """
        if args.metric_for_best_model is None:
            raise ArgumentError("EarlyStoppingCallback needs metric_for_best_model, such as 'loss'; it is None")
        if args.eval_strategy == "no":
            raise ArgumentError("EarlyStoppingCallback needs eval_strategy='steps' or 'epoch'; it is 'no'")
        if not args.load_best_model_at_end:
            logger.warning(
                "EarlyStoppingCallback without load_best_model_at_end=True: training ends with the last weights, "
                "not the best"
            )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge the metric, and stop training where patience has run out."""
        name = str(args.metric_for_best_model)
        name = name if name.startswith("eval_") else f"eval_{name}"
        value = (metrics or {}).get(name)
        if value is None:
            logger.warning("early stopping looks for %s, which this evaluation did not measure", name)
            return
        self.check_metric_value(args, state, control, value)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """Return patience and threshold as arguments, and how far patience has worn as an attribute."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }
