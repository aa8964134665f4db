"""Turn a given value into the type that a field is annotated with, or say what would do.

Courtesies, because of where values come from: YAML reads `5e-5` as text and `no` as False, command lines give JSON as
text, NumPy and torch give numbers of their own types, paths may be `Path` objects.
"""

from __future__ import annotations

import json
import math
import os
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

from loopwright.arguments.choices import Choice


class UnfitError(Exception):
    """A value is not what was expected; the message completes "expected ..."."""


def convert(value: Any, annotation: Any) -> Any:
    """Return `value` as `annotation` (a type of this package's fields, or a union of them) wants it.

    Values for annotations that aren't known here, in classes that derive from ours, pass as they are.

    Raises:
        UnfitError: it is none of the union's types and can't be made one.
    """
    if get_origin(annotation) is Annotated:
        plain, kept_as = get_args(annotation)
        annotation = kept_as | None if type(None) in get_args(plain) else kept_as
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if value is None and types.NoneType in members:
        return None
    kinds = [get_origin(member) or member for member in members if member is not types.NoneType]
    if choice := next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Choice)), None):
        kinds = [choice]  # the "str" beside it is for type checkers: any string would not do
    optional = " or None" if types.NoneType in members else ""
    return _convert_to_one_of(kinds, _unwrap(value), optional)


def _convert_to_one_of(kinds: list[Any], value: Any, optional: str) -> Any:
    expected = []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Choice):
            return _read_choice(value, kind, optional)
        if kind not in _READERS:
            return value
        text, read = _READERS[kind]
        try:
            return read(value)
        except (TypeError, ValueError):
            expected.append(text)
    raise UnfitError(" or ".join(expected) + optional)


def _unwrap(value: Any) -> Any:
    """Return the Python number in a NumPy scalar or a zero-dimensional tensor, and other values as they are."""
    if getattr(value, "ndim", None) == 0 and callable(item := getattr(value, "item", None)):
        return item()
    return value


def _read_choice(value: Any, kind: type[Choice], optional: str) -> Choice:
    # YAML 1.1 reads an unquoted `no` as False.
    word = "no" if value is False and "no" in list(kind) else value
    try:
        return kind(word)
    except ValueError:
        raise UnfitError(kind.describe_allowed(value) + optional) from None


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise TypeError


def _read_int(value: Any) -> int:
    number = _read_float(value)
    if isinstance(number, float) and not number.is_integer():
        raise ValueError
    return int(number)


def _read_float(value: Any) -> float:
    """Return a number, leaving whole numbers whole."""
    number = _read_numeral(value) if isinstance(value, str) else value
    if isinstance(number, (int, float)) and not isinstance(number, bool) and not math.isnan(number):
        return number
    raise TypeError


def _read_numeral(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _read_str(value: Any) -> str:
    path = os.fspath(value)  # a str comes back as it is
    if not isinstance(path, str):
        raise TypeError
    return path


def _read_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _read_quoted(json.loads(value))
    if not isinstance(value, dict):
        raise TypeError
    return value


def _read_quoted(value: Any) -> Any:
    """Return what is inside the quotes: shells make it hard to write JSON whose numbers and booleans have none."""
    if isinstance(value, dict):
        return {key: _read_quoted(inner) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    for read in (_read_bool, _read_numeral):
        try:
            return read(value)
        except (TypeError, ValueError):
            continue
    return value


def _read_list(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return list(value)
    raise TypeError


_READERS: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("True or False", _read_bool),
    int: ("a whole number", _read_int),
    float: ("a number", _read_float),
    dict: ("a dict, or a JSON object as text", _read_dict),
    list: ("a list of strings", _read_list),
    str: ("a string", _read_str),
}
