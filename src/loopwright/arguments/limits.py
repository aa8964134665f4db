"""Which numbers an argument may be: the rules that concern one argument alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """What holds for a value, and the words that complete "expected ..." where it doesn't."""

    expected: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Limit:
    """Return the limit for finite numbers from `low` on."""
    return Limit(f"a number of at least {low}", lambda value: low <= value < math.inf)


def _from_0_to_below_1(value: float) -> bool:
    return 0 <= value < 1


def _is_whole_or_share(value: float) -> bool:
    return 0 <= value < math.inf and (value < 1 or value == int(value))


MORE_THAN_0 = Limit("a number above 0", lambda value: 0 < value < math.inf)
SHARE = Limit("a number from 0 to below 1", _from_0_to_below_1)
STEPS = Limit("a whole number of steps, or a number below 1 as a share of all steps", _is_whole_or_share)
# What seeds numpy.random and torch alike.
SEED = Limit("a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)
METRIC_INPUTS = Limit('a list of "inputs" and "loss"', lambda names: set(names) <= {"inputs", "loss"})

LIMITS: dict[str, Limit] = {
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    "adam_epsilon": at_least(0),
    "data_seed": SEED,
    "dataloader_num_workers": at_least(0),
    "dataloader_prefetch_factor": at_least(1),
    "ddp_bucket_cap_mb": at_least(1),
    "ddp_timeout": at_least(1),
    "eval_accumulation_steps": at_least(1),
    "eval_delay": at_least(0),
    "eval_steps": STEPS,
    "gradient_accumulation_steps": at_least(1),
    "include_for_metrics": METRIC_INPUTS,
    "label_smoothing_factor": SHARE,
    "learning_rate": at_least(0),
    "local_rank": at_least(-1),
    "logging_steps": STEPS,
    # Infinity too: it measures the norm without clipping.
    "max_grad_norm": Limit("a number of at least 0; 0 clips nothing", lambda value: value >= 0),
    "max_hours": MORE_THAN_0,
    "max_steps": Limit("a whole number above 0, or -1 to go by num_train_epochs", lambda value: value >= -1),
    "neftune_noise_alpha": at_least(0),
    "num_train_epochs": at_least(0),
    "per_device_eval_batch_size": at_least(1),
    "per_device_train_batch_size": at_least(1),
    "per_gpu_eval_batch_size": at_least(1),
    "per_gpu_train_batch_size": at_least(1),
    "save_every_minutes": MORE_THAN_0,
    "save_steps": Limit(f'{STEPS.expected}; save_strategy="no" saves nothing', _is_whole_or_share),
    "save_top_k": at_least(1),
    "save_total_limit": at_least(0),
    "seed": SEED,
    "torch_empty_cache_steps": at_least(1),
    "tracker_call_timeout": at_least(1),
    "tracker_close_timeout": at_least(0),
    "tracker_open_timeout": at_least(0),
    "warmup_ratio": SHARE,
    "warmup_steps": STEPS,
    "weight_decay": at_least(0),
}
