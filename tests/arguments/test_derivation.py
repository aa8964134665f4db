"""Arguments that follow from others."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from loopwright.arguments import TrainingArguments


@pytest.mark.parametrize(
    ("given", "derived"),
    [
        ({"eval_strategy": "steps", "logging_steps": 7}, {"eval_steps": 7, "do_eval": True}),
        ({"eval_strategy": "steps", "eval_steps": 0, "logging_steps": 7}, {"eval_steps": 7}),
        ({"eval_strategy": "steps", "eval_steps": 3, "logging_steps": 7}, {"eval_steps": 3}),
        ({"eval_strategy": "epoch"}, {"eval_steps": None, "do_eval": True}),
        ({}, {"do_eval": False, "metric_for_best_model": None, "greater_is_better": None}),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
            {"metric_for_best_model": "loss", "greater_is_better": False},
        ),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
            {"metric_for_best_model": "loss", "greater_is_better": False},
        ),
        ({"metric_for_best_model": "eval_loss"}, {"greater_is_better": False}),
        ({"metric_for_best_model": "accuracy"}, {"greater_is_better": True}),
        ({"metric_for_best_model": "loss", "greater_is_better": True}, {"greater_is_better": True}),
        ({"torch_compile_backend": "eager"}, {"torch_compile": True, "torch_compile_mode": None}),
        ({"torch_compile_mode": "max-autotune"}, {"torch_compile": True, "torch_compile_backend": "inductor"}),
        ({"torch_compile": True}, {"torch_compile_backend": "inductor"}),
        ({}, {"torch_compile": False, "torch_compile_backend": None}),
        ({"use_cpu": True}, {"dataloader_pin_memory": False}),
        ({}, {"dataloader_pin_memory": True}),
    ],
)
def test_what_follows(given: dict[str, Any], derived: dict[str, Any]) -> None:
    args = TrainingArguments("out", **given)

    assert {name: getattr(args, name) for name in derived} == derived


@pytest.mark.parametrize(
    ("level", "disabled"), [(logging.WARNING, False), (logging.INFO, False), (logging.ERROR, True)]
)
def test_progress_bar_goes_with_the_warnings(level: int, disabled: bool) -> None:
    logger = logging.getLogger("loopwright")
    before = logger.level
    logger.setLevel(level)
    try:
        assert TrainingArguments("out").disable_tqdm is disabled
        assert TrainingArguments("out", disable_tqdm=not disabled).disable_tqdm is not disabled
    finally:
        logger.setLevel(before)
