"""Old names of arguments, and arguments with two names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from loopwright.arguments import TrainingArguments
from loopwright.arguments.renamed import RENAMES
from loopwright.errors import ArgumentError

# Old name, given value, new name, value there.
CASES: list[tuple[str, Any, str, Any]] = [
    ("evaluation_strategy", "epoch", "eval_strategy", "epoch"),
    ("no_cuda", True, "use_cpu", True),
    ("per_gpu_train_batch_size", 3, "per_device_train_batch_size", 3),
    ("per_gpu_eval_batch_size", 3, "per_device_eval_batch_size", 3),
    ("warmup_ratio", 0.1, "warmup_steps", 0.1),
    ("include_inputs_for_metrics", True, "include_for_metrics", ["inputs"]),
    ("include_tokens_per_second", True, "include_num_input_tokens_seen", "all"),
    ("adafactor", True, "optim", "adafactor"),
    ("torchdynamo", "eager", "torch_compile_backend", "eager"),
    ("group_by_length", True, "train_sampling_strategy", "group_by_length"),
]


@dataclass
class Derived(TrainingArguments):
    """A user's dataclass has its own generated constructor."""

    more: int = 0


def test_every_old_name_is_tried() -> None:
    assert {old for old, *_ in CASES} == RENAMES.keys()


@pytest.mark.parametrize("kind", [TrainingArguments, Derived])
@pytest.mark.parametrize(("old", "given", "new", "kept"), CASES)
def test_old_name_sets_the_new_one_and_warns(kind: type, old: str, given: Any, new: str, kept: Any) -> None:
    with pytest.warns(DeprecationWarning, match=f"^{old} is deprecated: give {new}=") as caught:
        args = kind("out", **{old: given})

    assert getattr(args, new) == kept
    assert getattr(args, old) is None
    assert [warning.filename for warning in caught] == [__file__], "only then does Python show it to the user"


@pytest.mark.parametrize(("old", "given", "new", "kept"), CASES)
def test_old_name_may_be_assigned_later(old: str, given: Any, new: str, kept: Any) -> None:
    args: Any = TrainingArguments("out")
    with pytest.warns(DeprecationWarning, match=f"^{old} is deprecated"):
        setattr(args, old, given)

    assert getattr(args, new) == kept
    assert getattr(args, old) is None


@pytest.mark.parametrize(("old", "given", "new", "kept"), CASES)
def test_copy_of_arguments_with_an_old_name_warns_no_more(old: str, given: Any, new: str, kept: Any) -> None:
    with pytest.warns(DeprecationWarning, match=" is deprecated: give "):
        args = TrainingArguments("out", **{old: given})

    assert dataclasses.replace(args) == args  # a warning would be an error
    assert TrainingArguments(**args.to_dict()) == args


@pytest.mark.parametrize(
    "old", ["group_by_length", "include_inputs_for_metrics", "include_tokens_per_second", "adafactor"]
)
def test_old_flag_that_is_off_asks_for_nothing(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"^{old} is deprecated: leave it out"):
        assert TrainingArguments("out", **{old: False}) == TrainingArguments("out")


def test_old_and_new_name_may_agree_but_not_contradict() -> None:
    with pytest.warns(DeprecationWarning, match=" is deprecated: give "):
        assert TrainingArguments("out", evaluation_strategy="epoch", eval_strategy="epoch").eval_strategy == "epoch"
    with (
        pytest.warns(DeprecationWarning, match="^evaluation_strategy is deprecated"),
        pytest.raises(ArgumentError, match=r"^evaluation_strategy='epoch' and eval_strategy='steps' contradict"),
    ):
        TrainingArguments("out", evaluation_strategy="epoch", eval_strategy="steps")


def test_old_flag_adds_to_what_metrics_get() -> None:
    with pytest.warns(DeprecationWarning, match=" is deprecated: give "):
        args = TrainingArguments("out", include_for_metrics=["loss"], include_inputs_for_metrics=True)

    assert args.include_for_metrics == ["loss", "inputs"]
    assert TrainingArguments("out").include_for_metrics == [], "the default itself is not changed"


def test_old_value_is_checked_under_its_old_name() -> None:
    with pytest.raises(ArgumentError, match=r"^warmup_ratio=1\.5: expected a number from 0 to below 1"):
        TrainingArguments("out", warmup_ratio=1.5)


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_both_names_of_activation_checkpointing_hold_the_same(name: str) -> None:
    options = {"use_reentrant": False}
    for value in (True, False):
        args = TrainingArguments("out", **{name: value, f"{name}_kwargs": options})
        assert args.gradient_checkpointing is args.activation_checkpointing is value
        assert args.gradient_checkpointing_kwargs == args.activation_checkpointing_kwargs == options

    setattr(args, name, True)
    setattr(args, f"{name}_kwargs", None)
    assert args.gradient_checkpointing is args.activation_checkpointing is True
    assert args.gradient_checkpointing_kwargs is args.activation_checkpointing_kwargs is None


def test_activation_checkpointing_is_off_by_default_under_both_names() -> None:
    args = TrainingArguments("out")

    assert args.gradient_checkpointing is args.activation_checkpointing is False


def test_two_names_of_one_argument_may_not_contradict() -> None:
    with pytest.raises(ArgumentError, match="two names of one argument: give one, or both the same"):
        TrainingArguments("out", gradient_checkpointing=True, activation_checkpointing=False)


def test_dict_of_arguments_can_be_changed_by_either_name() -> None:
    values = TrainingArguments("out").to_dict()

    assert TrainingArguments(**(values | {"gradient_checkpointing": True})).activation_checkpointing is True
