"""The rules that concern several arguments at once."""

from __future__ import annotations

from typing import Any

import pytest

from loopwright.arguments import TrainingArguments
from loopwright.errors import ArgumentError

BY_STEPS = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"logging_steps": 0}, "logging_steps=0: expected more than 0 with logging_strategy='steps'"),
    (
        {"eval_strategy": "steps", "logging_strategy": "epoch", "logging_steps": 0},
        "eval_steps=0: expected more than 0 with eval_strategy='steps', "
        "or logging_steps above 0 to take its place (it is 0)",
    ),
    (
        {"load_best_model_at_end": True, "eval_strategy": "epoch"},
        "load_best_model_at_end=True with eval_strategy='epoch' and save_strategy='steps': "
        "expected both to be the same, or save_strategy='best'",
    ),
    (
        {"load_best_model_at_end": True},
        "load_best_model_at_end=True with eval_strategy='no' and save_strategy='steps': "
        "expected both to be the same, or save_strategy='best'",
    ),
    (
        {**BY_STEPS, "eval_steps": 20, "save_steps": 50},
        "load_best_model_at_end=True with save_steps=50 and eval_steps=20: "
        "expected save_steps to be a multiple of eval_steps",
    ),
    (
        {**BY_STEPS, "eval_steps": 0.1, "save_steps": 0.25},
        "load_best_model_at_end=True with save_steps=0.25 and eval_steps=0.1: "
        "expected save_steps to be a multiple of eval_steps",
    ),
    (
        {**BY_STEPS, "eval_steps": 0.1, "save_steps": 50},
        "load_best_model_at_end=True with save_steps=50 and eval_steps=0.1: "
        "expected both as whole steps, or both as shares of all steps",
    ),
    (
        {"save_top_k": 2},
        "save_top_k=2 with eval_strategy='no' and save_strategy='steps': "
        "expected both to be the same, or save_strategy='best'",
    ),
    ({"save_async_busy": "skip"}, "save_async_busy='skip' with save_async=False: expected save_async=True"),
    (
        {"enable_jit_checkpoint": True, "signal_action": "off"},
        "enable_jit_checkpoint=True with signal_action='off': expected 'exit' or 'return'",
    ),
    ({"fp16": True, "bf16": True}, "fp16=True and bf16=True: expected one of them at most"),
    (
        {"fp16_full_eval": True, "bf16_full_eval": True},
        "fp16_full_eval=True and bf16_full_eval=True: expected one of them at most",
    ),
    (
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        "eval_strategy='no' with lr_scheduler_type='reduce_lr_on_plateau', which goes by the evaluations: "
        "expected 'steps' or 'epoch'",
    ),
    (
        {"dataloader_prefetch_factor": 2},
        "dataloader_prefetch_factor=2 with dataloader_num_workers=0: expected at least 1 worker",
    ),
    (
        {"dataloader_persistent_workers": True},
        "dataloader_persistent_workers=True with dataloader_num_workers=0: expected at least 1 worker",
    ),
    (
        {"dataloader_multiprocessing_context": "spawn"},
        "dataloader_multiprocessing_context='spawn' with dataloader_num_workers=0: expected at least 1 worker",
    ),
]

KEPT: list[dict[str, Any]] = [
    {"logging_strategy": "epoch", "logging_steps": 0},
    {"logging_strategy": "no", "logging_steps": 0},
    {**BY_STEPS, "eval_steps": 20, "save_steps": 40},
    {**BY_STEPS, "eval_steps": 0.1, "save_steps": 0.3},
    {**BY_STEPS, "eval_steps": 0.05, "save_steps": 0.15},
    {**BY_STEPS, "save_strategy": "best", "eval_steps": 7},
    {"save_top_k": 3, "eval_strategy": "epoch", "save_strategy": "epoch"},
    {"enable_jit_checkpoint": True},
    {
        "load_best_model_at_end": True,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_steps": 3,
        "eval_steps": 2,
    },
    {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
    {"bf16": True, "use_cpu": True},
    {"bf16": True, "fp16_full_eval": True},
    {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True},
]


@pytest.mark.parametrize(("values", "message"), BROKEN)
def test_contradiction_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        TrainingArguments("out", **values)

    assert str(caught.value) == message


@pytest.mark.parametrize("values", KEPT)
def test_what_goes_together_is_accepted(values: dict[str, Any]) -> None:
    args = TrainingArguments("out", **values)

    assert {name: getattr(args, name) for name in values} == values
