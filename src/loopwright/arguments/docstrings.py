"""Find the text under each field of a dataclass: the one place where an argument is documented.

The source is read and parsed when a text is first asked for, so importing costs nothing.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from loopwright.arguments.annotations import resolved_hints, without_extras

T = TypeVar("T", bound=type)


def field_docstrings(owner: type) -> dict[str, str]:
    """Return the texts under the fields of `owner`, those of its bases included, as one line each."""
    texts: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if inspect.get_annotations(base) and dataclasses.is_dataclass(base):
            texts.update(_own_docstrings(base))
    return texts


@functools.cache
def _own_docstrings(owner: type) -> dict[str, str]:
    try:
        source = inspect.getsource(sys.modules[owner.__module__])
    except (KeyError, OSError, TypeError):  # no source: a notebook, or a program that ships bytecode alone
        return {}
    body = next(
        (
            node.body
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__
        ),
        [],
    )
    return {
        statement.target.id: " ".join(below.value.value.split())
        for statement, below in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


class _HelpfulMetadata(Mapping[str, Any]):
    """A field's metadata, whose "help" (HfArgumentParser shows it) is the text under the field."""

    def __init__(self, owner: type, name: str, others: Mapping[str, Any]) -> None:
        self._owner = owner
        self._name = name
        self._others = others

    def __getitem__(self, key: str) -> Any:
        if key == "help":
            return field_docstrings(self._owner).get(self._name, "").replace("%", "%%")  # argparse fills in %
        return self._others[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._others
        yield "help"

    def __len__(self) -> int:
        return len(self._others) + 1


def documented(cls: T) -> T:
    """Give every field of the dataclass `cls` its text as help; a decorator above `dataclass`."""
    for field in dataclasses.fields(cls):
        # mypy: dataclass itself fixes the type of metadata to a mapping proxy, and its readers take any mapping.
        field.metadata = _HelpfulMetadata(cls, field.name, field.metadata)  # type: ignore[assignment]
        # simple-parsing looks names up in the modules of some bases only, and would not find them all.
        field.type = without_extras(resolved_hints(cls)[field.name])
    return cls
