"""The one text on each argument."""

from __future__ import annotations

import dataclasses
import sys
import types
from dataclasses import dataclass, field

import pytest

from loopwright.arguments import TrainingArguments
from loopwright.arguments.refusals import REFUSALS
from loopwright.arguments.renamed import RENAMES
from loopwright.errors import ArgumentError

FIELDS = [one.name for one in dataclasses.fields(TrainingArguments)]


@dataclass
class Described(TrainingArguments):
    """A user's dataclass is described too."""

    depth: int = 3
    """How deep it goes, 100 % sure."""

    width: int = field(default=4, metadata={"help": "How wide."})


@pytest.mark.parametrize("name", FIELDS)
def test_every_argument_is_described_in_a_sentence_or_two(name: str) -> None:
    text = TrainingArguments.describe(name)

    assert text.endswith(".")
    assert 15 < len(text) < 250
    assert "  " not in text
    assert "\n" not in text
    assert text.startswith("Refused") == (name in REFUSALS)
    assert text.startswith("Deprecated") == (name in RENAMES)


def test_documentation_holds_all_in_order() -> None:
    documentation = TrainingArguments.documentation()

    assert list(documentation) == FIELDS
    assert len(set(documentation.values())) > 0.9 * len(FIELDS), "hardly any two say the same"


def test_help_of_the_field_is_its_text() -> None:
    for one in dataclasses.fields(TrainingArguments):
        assert one.metadata["help"] == TrainingArguments.describe(one.name)
        assert dict(one.metadata)["help"] == one.metadata["help"]


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'lerning_rate' is not a training argument"):
        TrainingArguments.describe("lerning_rate")


def test_derived_class_is_described_with_its_bases() -> None:
    assert Described.describe("depth") == "How deep it goes, 100 % sure."
    assert Described.describe("width") == ""
    assert Described.describe("seed") == TrainingArguments.describe("seed")


def test_class_without_source_is_left_undescribed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("typed_into_a_prompt")
    module.__dict__.update(TrainingArguments=TrainingArguments, dataclass=dataclass)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("@dataclass\nclass Typed(TrainingArguments):\n    depth: int = 3\n    'Unseen.'\n", module.__dict__)

    assert module.Typed.describe("depth") == ""
    assert module.Typed.describe("seed") == TrainingArguments.describe("seed")
