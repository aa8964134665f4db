"""Loopwright: a PyTorch Trainer with the callback API of Hugging Face Transformers.

Names are loaded on first use, so that `from loopwright import TrainerCallback` doesn't wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loopwright.arguments import IntervalStrategy, OptimizerNames, SaveStrategy, SchedulerType, TrainingArguments
    from loopwright.callbacks.base import TrainerCallback
    from loopwright.callbacks.dispatcher import CallbackHandler
    from loopwright.callbacks.early_stopping import EarlyStoppingCallback
    from loopwright.callbacks.events import Event
    from loopwright.callbacks.flow import DefaultFlowCallback
    from loopwright.callbacks.printer import PrinterCallback
    from loopwright.callbacks.progress import ProgressCallback
    from loopwright.callbacks.timing import TimeBudgetCallback, TimedSaveCallback
    from loopwright.checkpoint.layout import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
    from loopwright.data.collate import default_data_collator
    from loopwright.errors import LoopwrightError, Preempted
    from loopwright.loop.schedules import get_scheduler
    from loopwright.outputs import BestRun, EvalLoopOutput, EvalPrediction, PredictionOutput, TrainOutput
    from loopwright.runtime.randomness import enable_full_determinism, set_seed
    from loopwright.runtime.scalars import gather_scalars
    from loopwright.search.space import default_compute_objective, default_hp_space_optuna
    from loopwright.state import TRAINER_STATE_NAME, ExportableState, TrainerControl, TrainerState
    from loopwright.trainer import DEFAULT_CALLBACKS, DEFAULT_PROGRESS_CALLBACK, Trainer

# The same list as above, for the interpreter: name -> module.
_HOME = {
    "BestRun": "outputs",
    "CallbackHandler": "callbacks.dispatcher",
    "DEFAULT_CALLBACKS": "trainer",
    "DEFAULT_PROGRESS_CALLBACK": "trainer",
    "DefaultFlowCallback": "callbacks.flow",
    "EarlyStoppingCallback": "callbacks.early_stopping",
    "EvalLoopOutput": "outputs",
    "EvalPrediction": "outputs",
    "Event": "callbacks.events",
    "ExportableState": "state",
    "IntervalStrategy": "arguments",
    "LoopwrightError": "errors",
    "OptimizerNames": "arguments",
    "PREFIX_CHECKPOINT_DIR": "checkpoint.layout",
    "PredictionOutput": "outputs",
    "Preempted": "errors",
    "PrinterCallback": "callbacks.printer",
    "ProgressCallback": "callbacks.progress",
    "SaveStrategy": "arguments",
    "SchedulerType": "arguments",
    "TRAINER_STATE_NAME": "state",
    "TimeBudgetCallback": "callbacks.timing",
    "TimedSaveCallback": "callbacks.timing",
    "TrainOutput": "outputs",
    "Trainer": "trainer",
    "TrainerCallback": "callbacks.base",
    "TrainerControl": "state",
    "TrainerState": "state",
    "TrainingArguments": "arguments",
    "default_compute_objective": "search.space",
    "default_data_collator": "data.collate",
    "default_hp_space_optuna": "search.space",
    "enable_full_determinism": "runtime.randomness",
    "gather_scalars": "runtime.scalars",
    "get_last_checkpoint": "checkpoint.layout",
    "get_scheduler": "loop.schedules",
    "set_seed": "runtime.randomness",
}

__all__ = [
    "DEFAULT_CALLBACKS",
    "DEFAULT_PROGRESS_CALLBACK",
    "PREFIX_CHECKPOINT_DIR",
    "TRAINER_STATE_NAME",
    "BestRun",
    "CallbackHandler",
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "EvalLoopOutput",
    "EvalPrediction",
    "Event",
    "ExportableState",
    "IntervalStrategy",
    "LoopwrightError",
    "OptimizerNames",
    "PredictionOutput",
    "Preempted",
    "PrinterCallback",
    "ProgressCallback",
    "SaveStrategy",
    "SchedulerType",
    "TimeBudgetCallback",
    "TimedSaveCallback",
    "TrainOutput",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "__version__",
    "default_compute_objective",
    "default_data_collator",
    "default_hp_space_optuna",
    "enable_full_determinism",
    "gather_scalars",
    "get_last_checkpoint",
    "get_scheduler",
    "set_seed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
