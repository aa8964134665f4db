"""The default flow: log, evaluate, save and stop as the arguments say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from loopwright.callbacks.base import TrainerCallback

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState


class DefaultFlowCallback(TrainerCallback):
    """Sets the control flags that follow from arguments and step number alone, and no others."""

    # What follows from arguments alone needs no entry among the decisions; that training ends does.
    routine_flags: ClassVar[frozenset[str]] = frozenset({"should_log", "should_evaluate", "should_save"})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Act on the strategies that count steps, and stop at the last step."""
        step = state.global_step
        is_last = step >= state.max_steps
        if (step == 1 and args.logging_first_step) or (
            args.logging_strategy == "steps" and step % state.logging_steps == 0
        ):
            control.should_log = True
        if args.eval_strategy == "steps" and args.eval_delay <= step and (is_last or step % state.eval_steps == 0):
            control.should_evaluate = True
        if args.save_strategy == "steps" and (is_last or (state.save_steps > 0 and step % state.save_steps == 0)):
            control.should_save = True
        if is_last:
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Act on the strategies that count epochs."""
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and args.eval_delay <= (state.epoch or 0):
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
        return control
