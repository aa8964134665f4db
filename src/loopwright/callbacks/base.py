"""The class that callbacks derive from: one method an event, each doing nothing until overridden.

Light on purpose: importing it loads neither torch nor anything else beyond the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState


class TrainerCallback:
    """Watches a run at its events and may steer it through `control`.

    Every method receives `args`, `state` and `control` by position, and the run's objects by keyword
    (`events.EventContext`): name those you need and leave the rest to `**kwargs`. `control` is the only thing to
    change; return it, or None. An event that no callback overrides costs the loop nothing.

    Example:
        ```python
        class StopAtNoon(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = datetime.now().hour >= 12
        ```
    """

    # The return type is Any, not "TrainerControl | None": overrides in the wild return either, or are unannotated.

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called at the end of the Trainer's construction."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called when training begins, before its first step."""

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called when training ended by itself or because a callback said so."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called at the beginning of an epoch."""

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called at the end of an epoch."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called before an optimizer update's first micro-batch."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called before the optimizer's step, the gradients being clipped already."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called after the optimizer's step, the gradients being there still."""

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called after each micro-batch of an accumulated update but the last."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called after an optimizer update: the place to set flags."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called after an evaluation; `metrics` holds what it measured."""

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Called after a prediction; `metrics` holds what it measured."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called when a checkpoint is whole and on the disk."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called when a log line is made; keys added to `logs` become part of it."""

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Called after each batch of an evaluation or prediction."""

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Never called by Loopwright; see `events`."""

    def on_exception(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Called when `exception` is about to end the run, Ctrl-C included."""
