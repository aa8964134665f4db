"""`TrainingArguments`: everything that can be said about a training, checked as it is said.

given value ── normalization ──▶ field        at every assignment, each field by itself
all fields  ── renamed ── derivation ── validation        once, when all have been given
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from loopwright.arguments.derivation import DERIVATIONS
from loopwright.arguments.docstrings import documented, field_docstrings
from loopwright.arguments.export import Export
from loopwright.arguments.loading import read_arguments
from loopwright.arguments.normalization import normalize
from loopwright.arguments.renamed import RENAMES, carry_over, join_twins, twin_of
from loopwright.arguments.setters import GroupSetters
from loopwright.arguments.validation import check_rules
from loopwright.errors import ArgumentError


@documented
@dataclass(repr=False)
class TrainingArguments(GroupSetters, Export):
    """The arguments of a training, with transformers' names, meanings and defaults.

    A plain dataclass: derive from it with `@dataclass` to add fields, hand it to HfArgumentParser, tyro or
    simple-parsing, copy it with `dataclasses.replace`. `TrainingArguments.describe("warmup_steps")` says what an
    argument does.

    Raises:
        ArgumentError: a value that can't work, or values that contradict each other.
        UnsupportedArgument: an argument of transformers that Loopwright doesn't honour.

    Example:
        ```python
        args = TrainingArguments("runs/digits", learning_rate=1e-3, eval_strategy="epoch")
        ```
    """

    _is_complete: ClassVar[bool] = False  # of an instance: whether __post_init__ has seen it

    def __post_init__(self) -> None:
        for old in RENAMES:
            carry_over(self, old)
        join_twins(self)
        for derive in DERIVATIONS:
            derive(self)
        check_rules(self)
        self.__dict__["_is_complete"] = True

    if not TYPE_CHECKING:  # seen by a type checker, it would let every attribute name pass

        def __setattr__(self, name: str, value: Any) -> None:
            kept = normalize(type(self), name, value)
            object.__setattr__(self, name, kept)
            if not self._is_complete:
                return
            if name in RENAMES:
                carry_over(self, name)
            elif other := twin_of(name):
                object.__setattr__(self, other, kept)

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Self:
        """Return the arguments that a .json, .yaml, .yml or .toml file gives, `overrides` taking precedence.

        Raises:
            ArgumentError: the file is broken, has an unknown name or a bad value.
            MissingExtra: it is YAML, and PyYAML isn't installed.
        """
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        return cls(**(read_arguments(path, known) | overrides))

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """Return the text on each argument, by name."""
        texts = field_docstrings(cls)
        return {field.name: texts.get(field.name, "") for field in dataclasses.fields(cls)}

    @classmethod
    def describe(cls, field_name: str) -> str:
        """Return the text on the argument `field_name`."""
        texts = cls.documentation()
        if field_name not in texts:
            raise ArgumentError(f"{field_name!r} is not a training argument")
        return texts[field_name]

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the number of warm-up steps in a training of `num_training_steps`."""
        if self.warmup_steps < 1:
            return math.ceil(num_training_steps * self.warmup_steps)
        return int(self.warmup_steps)
