"""What a training is asked to do: `TrainingArguments`, one file for each topic of arguments."""

from loopwright.arguments.choices import (
    CallbackErrors,
    HubStrategy,
    IntervalStrategy,
    LogLevel,
    OptimizerNames,
    ParallelMode,
    SamplingStrategy,
    SaveErrors,
    SaveStrategy,
    SchedulerType,
    SignalAction,
    StartMethod,
    TokenCount,
    WhenBusy,
)
from loopwright.arguments.training_arguments import TrainingArguments

__all__ = [
    "CallbackErrors",
    "HubStrategy",
    "IntervalStrategy",
    "LogLevel",
    "OptimizerNames",
    "ParallelMode",
    "SamplingStrategy",
    "SaveErrors",
    "SaveStrategy",
    "SchedulerType",
    "SignalAction",
    "StartMethod",
    "TokenCount",
    "TrainingArguments",
    "WhenBusy",
]
