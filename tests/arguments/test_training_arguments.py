"""The dataclass as a whole: what it accepts, keeps, copies and costs."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loopwright.arguments import SchedulerType, TrainingArguments
from loopwright.arguments.refusals import REFUSALS
from loopwright.arguments.renamed import RENAMES
from loopwright.errors import ArgumentError, UnsupportedArgument

ALL_FIELDS = [one.name for one in dataclasses.fields(TrainingArguments)]


@dataclass
class WithMore(TrainingArguments):
    """What users do: other defaults and fields of their own."""

    learning_rate: float = 1e-2
    bf16: bool | None = None  # type: ignore[assignment]
    service_api_key: str | None = None
    layers: list[int] = field(default_factory=lambda: [1, 2])

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16
        super().__post_init__()


def test_first_positional_argument_is_the_output_directory() -> None:
    assert TrainingArguments("out").output_dir == "out"
    assert TrainingArguments().output_dir == "trainer_output"
    assert TrainingArguments(None).output_dir == "trainer_output"  # type: ignore[arg-type]


def test_every_honoured_argument_is_in_the_table_of_other_values(other_values: dict[str, Any]) -> None:
    assert set(other_values) == set(ALL_FIELDS) - REFUSALS.keys() - RENAMES.keys()


def test_every_honoured_argument_keeps_what_it_was_given(other_values: dict[str, Any]) -> None:
    args = TrainingArguments(**other_values)

    assert {name: getattr(args, name) for name in other_values} == other_values


@pytest.mark.parametrize("name", ALL_FIELDS)
def test_every_argument_refuses_a_value_of_the_wrong_type_by_name(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name}=(<object object|<[A-Z_]+>)"):
        TrainingArguments(**{name: object()})


def test_an_argument_assigned_later_is_checked_too() -> None:
    args = TrainingArguments("out")

    args.lr_scheduler_type = "cosine"
    assert args.lr_scheduler_type is SchedulerType.COSINE
    with pytest.raises(ArgumentError, match="learning_rate='fast': expected a number"):
        args.learning_rate = "fast"  # type: ignore[assignment]
    with pytest.raises(UnsupportedArgument, match="deepspeed="):
        args.deepspeed = {"stage": 3}


def test_other_attributes_may_be_assigned_freely() -> None:
    args: Any = TrainingArguments("out")
    args.my_own_note = object

    assert args.my_own_note is object


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, dataclasses.replace, lambda args: pickle.loads(pickle.dumps(args))]
)
def test_copies_equal_the_original_even_after_setters(copied: Any, other_values: dict[str, Any]) -> None:
    args = TrainingArguments(**other_values).set_training(gradient_checkpointing=True).set_logging(steps=3)
    again = copied(args)

    assert again == args
    assert again.activation_checkpointing is True
    again.gradient_checkpointing = False
    assert again.activation_checkpointing is False, "a copy still keeps both names equal"
    assert args.activation_checkpointing is True


def test_replace_changes_what_it_is_told_to() -> None:
    args = dataclasses.replace(TrainingArguments("out", eval_strategy="epoch"), learning_rate=0.5, eval_strategy="no")

    assert (args.output_dir, args.learning_rate, args.eval_strategy) == ("out", 0.5, "no")


def test_replace_checks_the_rules_anew() -> None:
    with pytest.raises(ArgumentError, match="load_best_model_at_end=True"):
        dataclasses.replace(TrainingArguments("out"), load_best_model_at_end=True)


def test_a_derived_dataclass_has_its_own_defaults_and_fields() -> None:
    args = WithMore("out", layers=[3])

    assert (args.learning_rate, args.bf16, args.layers) == (1e-2, True, [3])
    assert WithMore("out", fp16=True).bf16 is False
    assert dataclasses.replace(args, layers=[4]).layers == [4]
    with pytest.raises(ArgumentError, match="learning_rate='x'"):
        WithMore("out", learning_rate="x")  # type: ignore[arg-type]


def test_a_derived_dataclass_shows_no_secret() -> None:
    args = WithMore("out", service_api_key="hush")

    assert "hush" not in repr(args) + str(args) + args.to_json_string()
    assert "<SERVICE_API_KEY>" in repr(args)


def test_warmup_steps_are_whole_or_a_share() -> None:
    assert TrainingArguments("out", warmup_steps=7).get_warmup_steps(100) == 7
    assert TrainingArguments("out", warmup_steps=0.101).get_warmup_steps(100) == 11
    assert TrainingArguments("out").get_warmup_steps(100) == 0


def test_home_directory_is_expanded() -> None:
    args = TrainingArguments("~/out", logging_dir="~/logs")

    assert args.output_dir == str(Path("~/out").expanduser())
    assert args.logging_dir == str(Path("~/logs").expanduser())


def test_importing_and_building_arguments_loads_neither_torch_nor_numpy() -> None:
    program = (
        "import sys; from loopwright.arguments import TrainingArguments;"
        "args = TrainingArguments('out'); args.to_sanitized_dict(); repr(args);"
        "sys.exit(str(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stderr.strip() == ""


def test_importing_arguments_costs_less_than_twice_the_standard_library_under_it() -> None:
    # Alone on 2 cores: 23 ms for the library, 20 for ours. A ratio holds on a busy machine too.
    program = (
        "from time import process_time; start = process_time();"
        "import ast, dataclasses, datetime, difflib, enum, inspect, json, logging, pathlib, tomllib, typing, warnings;"
        "between = process_time(); import loopwright.arguments; print((process_time() - between) / (between - start))"
    )
    ratio = min(float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(5))

    assert ratio < 2
