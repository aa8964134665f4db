"""What can't be honoured is refused, with advice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from accelerate.parallelism_config import ParallelismConfig

from loopwright.arguments import OptimizerNames, SamplingStrategy, TrainingArguments
from loopwright.arguments.refusals import REFUSALS
from loopwright.errors import UnsupportedArgument

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}

# A value that asks for something, for every refused argument.
ASKING: dict[str, Any] = {
    "accelerator_config": {"split_batches": True},
    "debug": "underflow_overflow",
    "deepspeed": "ds_config.json",
    "dispatch_batches": False,
    "eval_use_gather_object": True,
    "fp16_backend": "apex",
    "fp16_opt_level": "O2",
    "fsdp_min_num_params": 1000,
    "fsdp_transformer_layer_cls_to_wrap": "Block",
    "half_precision_backend": "apex",
    "hub_always_push": True,
    "hub_model_id": "me/model",
    "hub_revision": "main",
    "hub_strategy": "end",
    "hub_token": "hf_secret",
    "jit_mode_eval": True,
    "liger_kernel_config": {"rope": True},
    "mp_parameters": "{}",
    "optim_target_modules": ["attention"],
    "parallelism_config": ParallelismConfig(),
    "past_index": 2,
    "push_to_hub": True,
    "push_to_hub_model_id": "model",
    "push_to_hub_organization": "us",
    "push_to_hub_token": "hf_secret",
    "ray_scope": "all",
    "save_on_each_node": True,
    "save_safetensors": False,
    "split_batches": True,
    "tpu_metrics_debug": True,
    "tpu_num_cores": 8,
    "trackio_static_space_id": "space",
    "use_ipex": True,
    "use_legacy_prediction_loop": True,
    "use_liger_kernel": True,
    "use_mps_device": True,
}


def test_every_refused_argument_is_tried() -> None:
    assert ASKING.keys() == REFUSALS.keys()


@pytest.mark.parametrize("name", ASKING)
def test_argument_is_refused_with_advice(name: str) -> None:
    with pytest.raises(UnsupportedArgument) as caught:
        TrainingArguments("out", **{name: ASKING[name]})

    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert message.endswith(f" is not supported: {REFUSALS[name].instead}")
    assert "hf_secret" not in message


@pytest.mark.parametrize("name", REFUSALS)
def test_default_is_accepted(name: str) -> None:
    default = FIELDS[name].default

    assert getattr(TrainingArguments("out", **{name: default}), name) == default


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, one in REFUSALS.items() for value in one.harmless])
def test_what_asks_for_nothing_is_accepted_and_not_kept(name: str, value: Any) -> None:
    assert getattr(TrainingArguments("out", **{name: value}), name) == FIELDS[name].default


def test_flag_is_not_mistaken_for_a_number() -> None:
    with pytest.raises(UnsupportedArgument):
        TrainingArguments("out", fsdp_min_num_params=True)
    with pytest.raises(UnsupportedArgument):
        TrainingArguments("out", push_to_hub=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OptimizerNames)
def test_only_the_optimizers_of_torch_are_honoured(name: str) -> None:
    if name in {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}:
        assert TrainingArguments("out", optim=name).optim is OptimizerNames(name)
        return
    with pytest.raises(UnsupportedArgument, match=rf"^optim='{name}' is not supported: .*optimizer_cls_and_kwargs"):
        TrainingArguments("out", optim=name)


def test_unknown_optimizer_is_answered_with_those_that_work() -> None:
    with pytest.raises(ValueError, match=r"^optim='adamw': expected one of 'adamw_torch', .*'rmsprop'; did you mean"):
        TrainingArguments("out", optim="adamw")


def test_greedy_schedule_and_rebalanced_batches_are_refused() -> None:
    with pytest.raises(UnsupportedArgument, match=r"^lr_scheduler_type='greedy' is not supported: .*create_scheduler"):
        TrainingArguments("out", lr_scheduler_type="greedy")
    name = SamplingStrategy.BATCH_REBALANCE
    with pytest.raises(UnsupportedArgument, match=rf"^train_sampling_strategy='{name}' is not supported: .*by_length"):
        TrainingArguments("out", train_sampling_strategy=name)
