"""Names of arguments that have another name now, and how their values carry over.

An old name is a field, so that keywords, command lines and files may still use it; it holds None again as soon as its
value has gone to the new name. Two names that are both in use (`TWINS`) always hold the same.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from loopwright.arguments.choices import IntervalStrategy
from loopwright.errors import ArgumentError


def _flag() -> Any:
    # For HfArgumentParser: the bare flag means True, as it did when the field was a plain bool.
    return field(default=None, metadata={"nargs": "?", "const": True})


@dataclass(init=False, repr=False, eq=False)
class RenamedArguments:
    """The old names."""

    evaluation_strategy: IntervalStrategy | str | None = None
    """Deprecated: `eval_strategy`."""

    no_cuda: bool | None = _flag()
    """Deprecated: `use_cpu`."""

    per_gpu_train_batch_size: int | None = None
    """Deprecated: `per_device_train_batch_size`."""

    per_gpu_eval_batch_size: int | None = None
    """Deprecated: `per_device_eval_batch_size`."""

    warmup_ratio: float | None = None
    """Deprecated: `warmup_steps`, which takes a share of all steps where it is below 1."""

    group_by_length: bool | None = _flag()
    """Deprecated: `train_sampling_strategy`."""

    include_inputs_for_metrics: bool | None = _flag()
    """Deprecated: "inputs" in `include_for_metrics`."""

    include_tokens_per_second: bool | None = _flag()
    """Deprecated: `include_num_input_tokens_seen`, with which tokens per second are reported too."""

    adafactor: bool | None = _flag()
    """Deprecated: "adafactor" as `optim`."""

    torchdynamo: str | None = None
    """Deprecated: `torch_compile_backend`."""


class Rename(NamedTuple):
    """Where the value of an old name goes.

    Attributes:
        new: The field it goes to.
        carry_over: Turns the old value into the new one; None where it asked for nothing.
    """

    new: str
    carry_over: Callable[[Any], Any] = lambda value: value


def _if_set(new_value: Any) -> Callable[[Any], Any]:
    return lambda value: new_value if value else None


RENAMES: dict[str, Rename] = {
    "evaluation_strategy": Rename("eval_strategy"),
    "no_cuda": Rename("use_cpu"),
    "per_gpu_train_batch_size": Rename("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Rename("per_device_eval_batch_size"),
    "warmup_ratio": Rename("warmup_steps", lambda ratio: ratio or None),
    "group_by_length": Rename("train_sampling_strategy", _if_set("group_by_length")),
    "include_inputs_for_metrics": Rename("include_for_metrics", _if_set(["inputs"])),
    "include_tokens_per_second": Rename("include_num_input_tokens_seen", _if_set("all")),
    "adafactor": Rename("optim", _if_set("adafactor")),
    "torchdynamo": Rename("torch_compile_backend"),
}

TWINS: dict[str, str] = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}


def carry_over(args: Any, old: str) -> None:
    """Move the value of the old name to the new one, with a `DeprecationWarning`; nothing where none was given.

    Raises:
        ArgumentError: the new name has a value that says otherwise.
    """
    if (given := getattr(args, old)) is None:
        return
    setattr(args, old, None)
    new, translate = RENAMES[old]
    value = translate(given)
    instead = "leave it out" if value is None else f"give {new}={value!r}"
    warnings.warn(f"{old} is deprecated: {instead}", DeprecationWarning, stacklevel=_levels_to_caller())
    if value is None:
        return
    current = getattr(args, new)
    if isinstance(current, list):
        value = [*current, *(one for one in value if one not in current)]
    elif current not in (_default_of(args, new), value):
        raise ArgumentError(f"{old}={given!r} and {new}={current!r} contradict each other: give {new} alone")
    setattr(args, new, value)


def join_twins(args: Any) -> None:
    """Give both names of an argument the value that either was given.

    Raises:
        ArgumentError: they were given different ones.
    """
    for one, other in TWINS.items():
        first, second = getattr(args, one), getattr(args, other)
        if first is not None and second is not None and first != second:
            raise ArgumentError(
                f"{one}={first!r} and {other}={second!r} are two names of one argument: give one, or both the same"
            )
        joined = first if first is not None else second
        setattr(args, one, joined)
        setattr(args, other, joined)


def twin_of(name: str) -> str | None:
    """Return the other name of the argument `name`, if it has two."""
    return TWINS.get(name) or next((one for one, other in TWINS.items() if other == name), None)


def _default_of(args: Any, name: str) -> Any:
    default = next(one.default for one in dataclasses.fields(args) if one.name == name)
    return getattr(type(args), name, default)


def _levels_to_caller() -> int:
    """Return the `stacklevel` at which a warning names the line that constructs the arguments.

    Python shows a DeprecationWarning only to the program's own main file, so it must not point into this package.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_code):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(code: CodeType) -> bool:
    if code.co_filename == "<string>":  # where dataclass writes its __init__
        return code.co_name == "__init__"
    return Path(code.co_filename).parent == Path(__file__).parent
