"""Which trackers are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from loopwright.arguments import TrainingArguments
from loopwright.arguments.reporting import normalize_report_to, resolve_report_to
from loopwright.errors import ArgumentError

AVAILABLE = ["tensorboard", "wandb"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("all", AVAILABLE),
        (["all"], AVAILABLE),
        (None, AVAILABLE),
        ("none", []),
        (["none"], []),
        ([], []),
        ("wandb", ["wandb"]),
        (["wandb", "tensorboard"], ["wandb", "tensorboard"]),
    ],
)
def test_names_are_found_among_those_available(value: Any, names: list[str]) -> None:
    assert resolve_report_to(value, AVAILABLE) == names
    assert resolve_report_to(normalize_report_to(value), AVAILABLE) == names


def test_all_of_none_is_none() -> None:
    assert resolve_report_to(TrainingArguments("out").report_to, ()) == []


def test_unknown_tracker_is_answered_with_those_available() -> None:
    with pytest.raises(ArgumentError) as caught:
        resolve_report_to("wandbb", AVAILABLE)
    assert str(caught.value) == (
        "report_to='wandbb': no tracker of that name is available; available: 'tensorboard', 'wandb'; or 'all', 'none'"
        "; did you mean 'wandb'?"
    )
    with pytest.raises(ArgumentError, match="available: none in this version"):
        resolve_report_to("wandb", ())


@pytest.mark.parametrize("value", [["all", "wandb"], ["wandb", "none"]])
def test_all_and_none_stand_alone(value: list[str]) -> None:
    with pytest.raises(ArgumentError, match=r"^report_to=\['.*'\]: '(all|none)' stands alone"):
        TrainingArguments("out", report_to=value)
