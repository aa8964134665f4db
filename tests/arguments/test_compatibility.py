"""Names, defaults and meanings are those of transformers: version 5 live, version 4.47 by a list."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import transformers

from loopwright.arguments import TrainingArguments
from loopwright.errors import ArgumentError, UnsupportedArgument

THEIR_FIELDS = {field.name: field for field in dataclasses.fields(transformers.TrainingArguments)}

# Where the defaults differ, and why.
OTHER_DEFAULTS = {
    "report_to": (["all"], []),  # the seed's default, that of version 4
    "restore_callback_states_from_checkpoint": (True, False),  # a resumed run should be the same run
    "debug": ("", []),  # refused
}

# In the dict of only one of the two, and why.
OUR_OWN = {
    *("callback_errors", "tracker_call_timeout", "tracker_close_timeout", "tracker_open_timeout"),
    *("save_async", "save_async_busy", "save_errors", "save_on_exception", "signal_action"),
    *("save_top_k", "save_every_minutes", "max_hours", "eval_spill_dir", "logging_async"),
}
OURS_ALONE = {*OUR_OWN, "logging_dir", "overwrite_output_dir"}  # and two of 4.47 that live on
THEIRS_ALONE = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
}  # second names, so that a copy can change
ACCELERATE = {"accelerator_config"}  # there, an object of Accelerate's is made of None

# The arguments of transformers 4.47.1 that 5.23 has no more, with their defaults.
DROPPED_AFTER_4_47: dict[str, Any] = {
    "overwrite_output_dir": False,
    "per_gpu_train_batch_size": None,
    "per_gpu_eval_batch_size": None,
    "warmup_ratio": 0.0,
    "logging_dir": None,
    "save_safetensors": True,
    "no_cuda": False,
    "use_mps_device": False,
    "jit_mode_eval": False,
    "use_ipex": False,
    "fp16_opt_level": "O1",
    "half_precision_backend": "auto",
    "tpu_num_cores": None,
    "tpu_metrics_debug": False,
    "past_index": -1,
    "fsdp_min_num_params": 0,
    "fsdp_transformer_layer_cls_to_wrap": None,
    "adafactor": False,
    "group_by_length": False,
    "use_legacy_prediction_loop": False,
    "include_inputs_for_metrics": False,
    "fp16_backend": "auto",
    "evaluation_strategy": None,
    "push_to_hub_model_id": None,
    "push_to_hub_organization": None,
    "push_to_hub_token": None,
    "mp_parameters": "",
    "torchdynamo": None,
    "ray_scope": "last",
    "dispatch_batches": None,
    "split_batches": None,
    "include_tokens_per_second": False,
}

# Defaults of 4.47 that 5.23 changed the form of.
FORMER_DEFAULTS: dict[str, Any] = {
    "average_tokens_across_devices": False,
    "fsdp": "",
    "gradient_checkpointing": False,
    "include_num_input_tokens_seen": False,
    "lr_scheduler_kwargs": {},
    "optim": "adamw_torch",
    "report_to": None,
}


@pytest.mark.parametrize("name", THEIR_FIELDS)
def test_every_argument_of_version_5_is_accepted_at_its_default(name: str) -> None:
    field = THEIR_FIELDS[name]
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default

    TrainingArguments(**{name: default})


@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", [*DROPPED_AFTER_4_47, *FORMER_DEFAULTS])
def test_every_argument_of_version_4_is_accepted_at_its_default(name: str) -> None:
    TrainingArguments("out", **{name: (DROPPED_AFTER_4_47 | FORMER_DEFAULTS)[name]})


def test_list_of_version_4_holds_none_of_version_5() -> None:
    assert not DROPPED_AFTER_4_47.keys() & THEIR_FIELDS.keys()


def test_no_argument_is_unheard_of_in_either_version() -> None:
    ours = {field.name for field in dataclasses.fields(TrainingArguments)}

    assert ours - THEIR_FIELDS.keys() - DROPPED_AFTER_4_47.keys() == OUR_OWN


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"eval_strategy": "steps", "logging_steps": 50, "warmup_steps": 0.1, "lr_scheduler_type": "cosine"},
        {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "save_total_limit": 1},
        {"metric_for_best_model": "accuracy", "torch_compile_mode": "default", "use_cpu": True, "save_strategy": "no"},
        {"include_num_input_tokens_seen": True, "lr_scheduler_kwargs": '{"a": "1", "b": "true"}', "label_names": ["x"]},
        {"logging_steps": 0.25, "eval_strategy": "steps", "eval_steps": 2.0, "save_steps": 0.5, "do_train": True},
    ],
)
def test_values_derived_are_those_of_transformers(values: dict[str, Any]) -> None:
    ours = TrainingArguments("out", **values).to_dict()
    theirs = transformers.TrainingArguments("out", **values).to_dict()

    assert ours.keys() - theirs.keys() == OURS_ALONE
    assert theirs.keys() - ours.keys() == THEIRS_ALONE
    different = {name: (ours[name], theirs[name]) for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    assert {name: pair for name, pair in different.items() if name not in ACCELERATE} == OTHER_DEFAULTS


@pytest.mark.parametrize(
    "values",
    [
        {"eval_strategy": "never"},
        {"logging_steps": 0},
        {"logging_steps": 1.5},
        {"eval_strategy": "steps", "eval_steps": 1.5},
        {"save_steps": 1.5},
        {"load_best_model_at_end": True},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 20, "save_steps": 50},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 50},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.25},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"fp16": True, "bf16": True, "use_cpu": True},
        {"warmup_steps": -1},
        {"torch_empty_cache_steps": 0},
        {"dataloader_prefetch_factor": 2},
    ],
)
def test_what_transformers_refuses_is_refused_here(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- theirs have any wording
        transformers.TrainingArguments("out", **values)
    with pytest.raises(ArgumentError):
        TrainingArguments("out", **values)


def test_public_attributes_of_transformers_are_there() -> None:
    theirs = {name for name in dir(transformers.TrainingArguments) if not name.startswith("_")}
    ours = set(dir(TrainingArguments("out"))) | {field.name for field in dataclasses.fields(TrainingArguments)}

    left_over_from_building_their_class = {"default_optim", "is_torch_greater_or_equal_than_2_8"}
    assert theirs - ours - left_over_from_building_their_class == set()


def test_arguments_work_in_their_callbacks_place() -> None:
    """Callbacks written for transformers read these."""
    args = TrainingArguments("out")
    for name in ("deepspeed", "fsdp", "push_to_hub", "hub_model_id", "report_to", "run_name", "should_save"):
        getattr(args, name)


def test_refused_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="deepspeed") as caught:
        TrainingArguments("out", deepspeed="ds.json")  # type: ignore[arg-type]
    assert isinstance(caught.value, UnsupportedArgument)
