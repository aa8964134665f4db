"""Bring a value that is given for a field into the one form that the field keeps, or say why it can't be.

This happens at every assignment, in the constructor and after it, so a field never holds anything else. What concerns
several arguments at once is in `validation`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, cast

from loopwright.arguments.annotations import resolved_hints
from loopwright.arguments.choices import Choice
from loopwright.arguments.conversion import UnfitError, convert
from loopwright.arguments.fields import ArgumentFields
from loopwright.arguments.limits import LIMITS
from loopwright.arguments.masking import is_secret, mask
from loopwright.arguments.refusals import REFUSALS, asks_for_nothing, refuse, refuse_choice
from loopwright.arguments.reporting import normalize_report_to
from loopwright.arguments.sharding import read_config
from loopwright.errors import ArgumentError


def _keep_output_dir(value: str | None) -> str:
    return os.path.expanduser(value or "trainer_output")  # noqa: PTH111 -- text in, text out


def _keep_steps(value: float | None) -> float | None:
    """Make 100.0, which is how command lines give 100, whole: steps are compared and shown."""
    return value if value is None or value < 1 else int(value)


# Fields that keep more than the converted value.
_KEEPERS: dict[str, Callable[[Any], Any]] = {
    "eval_delay": lambda value: value or 0,
    "eval_steps": _keep_steps,
    "fsdp": lambda value: value or None,
    "fsdp_config": read_config,
    "logging_dir": lambda value: value and os.path.expanduser(value),  # noqa: PTH111 -- text in, text out
    "logging_steps": _keep_steps,
    "output_dir": _keep_output_dir,
    "report_to": normalize_report_to,
    "save_steps": _keep_steps,
    "warmup_steps": _keep_steps,
}
# None is taken for these too, and means the default.
_NONE_IS_DEFAULT = frozenset({"output_dir", "eval_delay"})


def normalize(owner: type, name: str, value: Any) -> Any:
    """Return what field `name` of the dataclass `owner` keeps for `value`; `value` itself where it isn't a field.

    Raises:
        ArgumentError: the type is wrong, or the value out of limits or unknown.
        UnsupportedArgument: Loopwright doesn't honour the argument, or not this value.
    """
    fields = _fields(owner)
    if name not in fields:
        return value
    default, annotation = fields[name]
    if is_secret(name) and isinstance(value, str) and value == mask(name):
        return default() if callable(default) else default  # from a file that `to_json_string` wrote
    if name in REFUSALS:
        if asks_for_nothing(name, value, default):
            return default
        raise refuse(name, value)
    converted = None if value is None and name in _NONE_IS_DEFAULT else _convert(name, value, annotation)
    kept = _KEEPERS[name](converted) if name in _KEEPERS else converted
    if isinstance(kept, Choice) and kept not in kept.honoured():
        raise refuse_choice(name, kept)
    return kept


def _convert(name: str, value: Any, annotation: Any) -> Any:
    try:
        converted = convert(value, annotation)
        if name in LIMITS and converted is not None and not LIMITS[name].holds(converted):
            raise UnfitError(LIMITS[name].expected)
    except UnfitError as unfit:
        shown = mask(name) if is_secret(name) else repr(value)
        raise ArgumentError(f"{name}={shown}: expected {unfit}") from None
    return converted


@functools.cache
def _fields(owner: type) -> dict[str, tuple[Any, Any]]:
    """Return default (or its factory) and type of each field; Any for fields that a class of the user's adds."""
    hints = resolved_hints(owner)
    ours = resolved_hints(ArgumentFields)
    return {
        field.name: (_default(field), hints.get(field.name, Any) if field.name in ours else Any)
        for field in dataclasses.fields(cast("type[ArgumentFields]", owner))
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return None if field.default is dataclasses.MISSING else field.default
