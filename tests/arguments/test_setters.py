"""The setters, beside those of transformers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import transformers

from loopwright.arguments import TrainingArguments
from loopwright.arguments.setters import GroupSetters
from loopwright.errors import ArgumentError, UnsupportedArgument

SETTERS = [name for name in vars(GroupSetters) if name.startswith("set_")]

# What differs on purpose.
OURS_ALONE = {("set_lr_scheduler", "warmup_ratio")}

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("set_training", {}),
    ("set_training", {"learning_rate": 1e-4, "batch_size": 32, "weight_decay": 0.1, "num_epochs": 1, "max_steps": 5}),
    ("set_training", {"gradient_accumulation_steps": 4, "seed": 1, "activation_checkpointing": True}),
    ("set_evaluate", {"strategy": "steps", "steps": 100, "batch_size": 2, "accumulation_steps": 3, "delay": 4}),
    ("set_evaluate", {"strategy": "epoch", "loss_only": True, "delay": 1}),
    ("set_testing", {"batch_size": 32, "loss_only": True}),
    ("set_save", {"strategy": "epoch", "steps": 7, "total_limit": 3}),
    ("set_save", {}),
    ("set_logging", {"strategy": "steps", "steps": 10, "level": "info", "first_step": True, "report_to": "none"}),
    ("set_logging", {"nan_inf_filter": True, "on_each_node": True, "replica_level": "error"}),
    ("set_optimizer", {}),
    (
        "set_optimizer",
        {"name": "sgd", "learning_rate": 1, "weight_decay": 0.1, "beta1": 0.1, "beta2": 0.2, "epsilon": 0.3},
    ),
    ("set_lr_scheduler", {"name": "cosine", "num_epochs": 2, "max_steps": 9, "warmup_steps": 0.05}),
    ("set_dataloader", {"train_batch_size": 16, "eval_batch_size": 64, "drop_last": True, "pin_memory": False}),
    ("set_dataloader", {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3, "sampler_seed": 5}),
    ("set_dataloader", {"multiprocessing_context": "spawn", "in_order": False, "ignore_data_skip": True}),
]


@pytest.mark.parametrize("name", SETTERS)
def test_signature_is_that_of_transformers(name: str) -> None:
    ours = inspect.signature(getattr(TrainingArguments, name)).parameters
    theirs = inspect.signature(getattr(transformers.TrainingArguments, name)).parameters

    assert [(one.name, one.default) for one in ours.values() if (name, one.name) not in OURS_ALONE] == [
        (one.name, one.default) for one in theirs.values()
    ]


def test_no_setter_is_missing() -> None:
    assert set(SETTERS) == {name for name in dir(transformers.TrainingArguments) if name.startswith("set_")}


@pytest.mark.parametrize(("name", "keywords"), CALLS)
def test_setter_changes_what_it_changes_in_transformers(name: str, keywords: dict[str, Any]) -> None:
    ours, theirs = TrainingArguments("out"), transformers.TrainingArguments("out")
    ours_before, theirs_before = ours.to_dict(), theirs.to_dict()

    assert getattr(ours, name)(**keywords) is ours
    getattr(theirs, name)(**keywords)

    changed = {key: value for key, value in ours.to_dict().items() if value != ours_before[key]}
    changed.pop("report_to", None)  # a list here, and "all" before
    assert changed == {
        key: value
        for key, value in theirs.to_dict().items()
        if value != theirs_before[key] and key not in ("report_to", "activation_checkpointing")
    }


def test_setters_chain() -> None:
    args = TrainingArguments("out").set_training(max_steps=3).set_save("no").set_evaluate("steps", steps=2)

    assert (args.max_steps, args.save_strategy, args.eval_steps, args.eval_delay) == (3, "no", 2, 0)


def test_setter_refuses_what_the_constructor_refuses() -> None:
    args = TrainingArguments("out")
    with pytest.raises(ArgumentError, match="eval_strategy='never'"):
        args.set_evaluate("never")
    with pytest.raises(UnsupportedArgument, match=r"push_to_hub=True is not supported: .*upload_folder"):
        args.set_push_to_hub("me/model")
    assert args.set_dataloader(auto_find_batch_size=True).auto_find_batch_size


@pytest.mark.parametrize("name", ["evaluate", "save", "logging"])
def test_zero_steps_are_refused_where_steps_count(name: str) -> None:
    with pytest.raises(ArgumentError, match="_steps=0: expected more than 0"):
        getattr(TrainingArguments("out"), f"set_{name}")(strategy="steps", steps=0)
    getattr(TrainingArguments("out"), f"set_{name}")(strategy="epoch", steps=0)


def test_gradient_checkpointing_may_be_set_by_its_own_name() -> None:
    assert TrainingArguments("out").set_training(gradient_checkpointing=True).activation_checkpointing is True


def test_warmup_ratio_of_the_schedule_is_an_old_name() -> None:
    with pytest.warns(DeprecationWarning, match="warmup_steps=0.1") as caught:
        args = TrainingArguments("out").set_lr_scheduler(warmup_ratio=0.1)

    assert args.warmup_steps == 0.1
    assert caught[0].filename == __file__
