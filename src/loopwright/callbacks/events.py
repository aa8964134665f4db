"""The events of a run, each in its place, and what a callback receives at each.

    Trainer(...)
        on_init_end
    trainer.train()
        on_train_begin                                      falls: should_training_stop
        evaluate, if args.eval_on_start
        for each epoch:
            on_epoch_begin                                  falls: should_epoch_stop
            for each optimizer update:
                on_step_begin                               falls: should_log, should_evaluate, should_save
                for each micro-batch:
                    forward, backward
                    on_substep_end                          not after the last one
                clip gradients
                on_pre_optimizer_step
                optimizer.step()
                on_optimizer_step
                lr_scheduler.step(), gradients to None, state.global_step += 1
                on_step_end
                ── act ──
            on_epoch_end
            ── act ──
        log the run's own metrics: on_log
        load the best model, if args.load_best_model_at_end
        on_train_end
    ── act ──
        if should_log:       on_log                         falls: should_log
        if should_evaluate:  evaluate                       (then the best metric is brought up to date)
        if should_save:      save a checkpoint, on_save     falls: should_save
    trainer.evaluate()
        for each batch: on_prediction_step
        on_log, on_evaluate                                 falls: should_evaluate
    trainer.predict()
        for each batch: on_prediction_step
        on_predict
    anything of the above raised
        on_exception                                        instead of what would have followed

How each way of ending a run looks from a callback:

    ending                                  on_epoch_end   on_log of the run's metrics   on_train_end   on_exception
    last step, or last epoch                yes            yes                           yes            no
    should_training_stop                    yes            yes                           yes            no
    an exception, Ctrl-C included           no             no                            no             yes

`on_push_begin` exists for callbacks written for transformers; nothing is ever pushed, so it is never called.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch


class Event(StrEnum):
    """Each member is the name of the `TrainerCallback` method that answers it."""

    INIT_END = "on_init_end"
    TRAIN_BEGIN = "on_train_begin"
    TRAIN_END = "on_train_end"
    EPOCH_BEGIN = "on_epoch_begin"
    EPOCH_END = "on_epoch_end"
    STEP_BEGIN = "on_step_begin"
    PRE_OPTIMIZER_STEP = "on_pre_optimizer_step"
    OPTIMIZER_STEP = "on_optimizer_step"
    SUBSTEP_END = "on_substep_end"
    STEP_END = "on_step_end"
    EVALUATE = "on_evaluate"
    PREDICT = "on_predict"
    SAVE = "on_save"
    LOG = "on_log"
    PREDICTION_STEP = "on_prediction_step"
    PUSH_BEGIN = "on_push_begin"
    EXCEPTION = "on_exception"


class EventContext(TypedDict, total=False):
    """The keyword arguments of an event: the run's objects at every event, the last three only at their own."""

    model: torch.nn.Module
    processing_class: Any
    tokenizer: Any  # deprecated: the same object as processing_class
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: Any
    train_dataloader: Any
    eval_dataloader: Any
    metrics: dict[str, Any]  # on_evaluate, on_predict
    logs: dict[str, Any]  # on_log
    exception: BaseException  # on_exception
