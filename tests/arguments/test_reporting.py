"""What `report_to` may be."""

from __future__ import annotations

from typing import Any

import pytest

from loopwright.arguments import TrainingArguments
from loopwright.arguments.reporting import normalize_report_to
from loopwright.errors import ArgumentError


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("all", ["all"]),
        (["all"], ["all"]),
        (None, ["all"]),
        ("none", []),
        (["none"], []),
        ([], []),
        ("wandb", ["wandb"]),
        (["wandb", "tensorboard"], ["wandb", "tensorboard"]),
    ],
)
def test_every_form_becomes_a_list(value: Any, names: list[str]) -> None:
    assert normalize_report_to(value) == names
    assert TrainingArguments("out", report_to=value).report_to == names


@pytest.mark.parametrize("value", [["all", "wandb"], ["wandb", "none"]])
def test_all_and_none_stand_alone(value: list[str]) -> None:
    with pytest.raises(ArgumentError, match=r"^report_to=\['.*'\]: '(all|none)' stands alone"):
        TrainingArguments("out", report_to=value)
