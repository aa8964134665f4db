"""The words that an argument may be set to, each set an Enum whose members equal their plain strings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import Enum, StrEnum
from typing import Any, Self

from loopwright.errors import ArgumentError


class Choice(StrEnum):
    """Base of the sets: takes the word, a member, or the member of another library's Enum with the same word."""

    # Enum hashes by name, so that a member would equal its word and still not be found in a set of words.
    __hash__ = str.__hash__

    def __repr__(self) -> str:
        return repr(self.value)  # in messages and when arguments are printed: what the user writes

    @classmethod
    def honoured(cls) -> tuple[Self, ...]:
        """Return the members that Loopwright can do; the others exist to be refused with advice."""
        return tuple(cls)

    @classmethod
    def describe_allowed(cls, value: Any) -> str:
        """Return what may be given instead of `value`, with the nearest word if there is a near one."""
        return f"one of {', '.join(map(repr, cls.honoured()))}{suggest(value, cls)}"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        if isinstance(value, Enum):
            return cls(value.value)
        raise ArgumentError(f"{value!r} is not a {cls.__name__}: expected {cls.describe_allowed(value)}")


def suggest(word: Any, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for the known word nearest to `word`, or nothing."""
    near = difflib.get_close_matches(str(word), [str(one) for one in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class IntervalStrategy(Choice):
    """When to log or evaluate."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(Choice):
    """When to save a checkpoint."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class SchedulerType(Choice):
    """The course of the learning rate."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"
    GREEDY = "greedy"

    @classmethod
    def honoured(cls) -> tuple[Self, ...]:
        """Return all but the greedy one."""
        return tuple(member for member in cls if member != "greedy")


class OptimizerNames(Choice):
    """The optimizers that transformers knows by name; Loopwright builds those that torch itself has."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    ADAFACTOR = "adafactor"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    # From here on: other packages' optimizers.
    ADAMW_HF = "adamw_hf"
    ADAMW_TORCH_XLA = "adamw_torch_xla"
    ADAMW_TORCH_NPU_FUSED = "adamw_torch_npu_fused"
    ADAMW_APEX_FUSED = "adamw_apex_fused"
    ADAMW_ANYPRECISION = "adamw_anyprecision"
    ADAMW_TORCH_4BIT = "adamw_torch_4bit"
    ADAMW_TORCH_8BIT = "adamw_torch_8bit"
    ADEMAMIX = "ademamix"
    ADAMW_BNB = "adamw_bnb_8bit"
    ADAMW_8BIT = "adamw_8bit"
    ADEMAMIX_8BIT = "ademamix_8bit"
    LION_8BIT = "lion_8bit"
    LION = "lion_32bit"
    PAGED_ADAMW = "paged_adamw_32bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    PAGED_ADEMAMIX = "paged_ademamix_32bit"
    PAGED_ADEMAMIX_8BIT = "paged_ademamix_8bit"
    PAGED_LION = "paged_lion_32bit"
    PAGED_LION_8BIT = "paged_lion_8bit"
    RMSPROP_BNB = "rmsprop_bnb"
    RMSPROP_8BIT = "rmsprop_bnb_8bit"
    RMSPROP_32BIT = "rmsprop_bnb_32bit"
    GALORE_ADAMW = "galore_adamw"
    GALORE_ADAMW_8BIT = "galore_adamw_8bit"
    GALORE_ADAFACTOR = "galore_adafactor"
    GALORE_ADAMW_LAYERWISE = "galore_adamw_layerwise"
    GALORE_ADAMW_8BIT_LAYERWISE = "galore_adamw_8bit_layerwise"
    GALORE_ADAFACTOR_LAYERWISE = "galore_adafactor_layerwise"
    LOMO = "lomo"
    ADALOMO = "adalomo"
    GROKADAMW = "grokadamw"
    SCHEDULE_FREE_RADAM = "schedule_free_radam"
    SCHEDULE_FREE_ADAMW = "schedule_free_adamw"
    SCHEDULE_FREE_SGD = "schedule_free_sgd"
    APOLLO_ADAMW = "apollo_adamw"
    APOLLO_ADAMW_LAYERWISE = "apollo_adamw_layerwise"
    STABLE_ADAMW = "stable_adamw"

    @classmethod
    def honoured(cls) -> tuple[Self, ...]:
        """Return those that torch has."""
        return (cls.ADAMW_TORCH, cls.ADAMW_TORCH_FUSED, cls.ADAFACTOR, cls.SGD, cls.ADAGRAD, cls.RMSPROP)


class SamplingStrategy(Choice):
    """The order of the training examples."""

    RANDOM = "random"
    SEQUENTIAL = "sequential"
    GROUP_BY_LENGTH = "group_by_length"
    BATCH_REBALANCE = "batch_rebalance"

    @classmethod
    def honoured(cls) -> tuple[Self, ...]:
        """Return those of one process; the other balances lengths between several."""
        return (cls.RANDOM, cls.SEQUENTIAL, cls.GROUP_BY_LENGTH)


class TokenCount(Choice):
    """Which input tokens to count."""

    ALL = "all"
    NON_PADDING = "non_padding"
    NO = "no"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        if value is True:  # how it was written before there was a choice; False is "no" everywhere
            return cls("all")
        return super()._missing_(value)


class LogLevel(Choice):
    """How much to say; "passive" leaves the level as the program has set it."""

    DETAIL = "detail"
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"
    PASSIVE = "passive"


class StartMethod(Choice):
    """How worker processes come to life."""

    FORK = "fork"
    SPAWN = "spawn"
    FORKSERVER = "forkserver"


class SaveErrors(Choice):
    """What a checkpoint that can't be written does to the run."""

    RAISE = "raise"
    WARN = "warn"


class SignalAction(Choice):
    """What a signal that asks the process to end does to a training."""

    EXIT = "exit"
    RETURN = "return"
    OFF = "off"


class WhenBusy(Choice):
    """What a save does while the one before it is still being written."""

    WAIT = "wait"
    SKIP = "skip"


class CallbackErrors(Choice):
    """What becomes of a run whose callback raised: it ends, or goes on without that callback."""

    RAISE = "raise"
    DISABLE = "disable"


class HubStrategy(Choice):
    """When to push to the Hub, which Loopwright never does."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


class ParallelMode(Choice):
    """Whether this process trains alone or as one of many."""

    NOT_PARALLEL = "not_parallel"
    DISTRIBUTED = "distributed"
