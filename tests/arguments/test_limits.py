"""The rules that concern one argument alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loopwright.arguments import TrainingArguments
from loopwright.arguments.limits import LIMITS
from loopwright.errors import ArgumentError

# For each limited argument: values just outside, and values just inside.
EDGES: dict[str, tuple[list[Any], list[Any]]] = {
    "adam_beta1": ([-0.1, 1.0], [0, 0.999]),
    "adam_beta2": ([-0.1, 1.0], [0, 0.999]),
    "adam_epsilon": ([-1e-9, float("inf")], [0.0, 1e-3]),
    "data_seed": ([-1, 2**32], [0, 2**32 - 1]),
    "dataloader_num_workers": ([-1], [0, 3]),
    "dataloader_prefetch_factor": ([0], []),  # needs workers
    "ddp_bucket_cap_mb": ([0], [1, 25]),
    "ddp_timeout": ([0, -1], [1, 1800]),
    "eval_accumulation_steps": ([0], [1]),
    "eval_delay": ([-1], [0, 0.5]),
    "eval_steps": ([-1, 1.5], [0.5, 1, 2.0]),
    "gradient_accumulation_steps": ([0, -1], [1]),
    "include_for_metrics": ([["outputs"]], [["inputs"], ["loss", "inputs"], []]),
    "label_smoothing_factor": ([1, -0.1], [0, 0.5]),
    "learning_rate": ([-1e-9, float("inf")], [0, 1e-3]),
    "local_rank": ([-2], [-1, 0]),
    "logging_steps": ([-1, 1.5, float("inf")], [0.5, 1, 2.0]),
    "max_grad_norm": ([-1], [0, float("inf")]),
    "max_hours": ([0, -1, float("inf")], [0.5, 24.0]),
    "max_steps": ([-2], [-1, 0, 1]),
    "neftune_noise_alpha": ([-1, float("inf")], [0, 5.0]),
    "num_train_epochs": ([-1, float("inf")], [0, 0.5]),
    "per_device_eval_batch_size": ([0], [1]),
    "per_device_train_batch_size": ([0], [1]),
    "per_gpu_eval_batch_size": ([0], []),  # an old name: see test_renamed
    "per_gpu_train_batch_size": ([0], []),
    "save_steps": ([-1, 1.5], [0, 0.5, 1]),
    "save_every_minutes": ([0, -1], [0.1, 15.0]),
    "save_top_k": ([0, -1], []),  # needs evaluations
    "save_total_limit": ([-1], [0, 1]),
    "seed": ([-1, 2**32], [0, 2**32 - 1]),
    "torch_empty_cache_steps": ([0], [1]),
    "tracker_call_timeout": ([0.5], [1, 600.0]),
    "tracker_close_timeout": ([-1], [0, 60.0]),
    "tracker_open_timeout": ([-1], [0, 30.0]),
    "warmup_ratio": ([-0.1, 1], []),
    "warmup_steps": ([-1, 1.5], [0, 0.5, 1, 100]),
    "weight_decay": ([-0.1], [0, 0.1]),
}


def test_every_limit_is_tried_at_its_edges() -> None:
    assert EDGES.keys() == LIMITS.keys()


def test_every_number_has_a_limit() -> None:
    numbers = {one.name for one in dataclasses.fields(TrainingArguments) if isinstance(one.default, (int, float))}
    flags = {one.name for one in dataclasses.fields(TrainingArguments) if isinstance(one.default, bool)}

    assert numbers - flags - LIMITS.keys() == {"fsdp_min_num_params", "past_index"}, "refused anyway"


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (outside, _) in EDGES.items() for value in outside]
)
def test_value_outside_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        TrainingArguments(**{name: value})

    assert str(caught.value) == f"{name}={value!r}: expected {LIMITS[name].expected}"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, inside) in EDGES.items() for value in inside])
def test_value_inside_is_kept(name: str, value: Any) -> None:
    assert getattr(TrainingArguments(**{name: value}), name) == value
