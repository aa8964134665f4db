"""Name metrics as transformers does: `train/loss`, `eval/loss`, `test/loss`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

_SPLITS = ("eval", "test")


def group_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with each name in its split: "eval_loss" as "eval/loss", "loss" as "train/loss"."""
    return {group_name(name): value for name, value in values.items()}


def group_name(name: str) -> str:
    """Return one name in its split."""
    for split in _SPLITS:
        if name.startswith(f"{split}_"):
            return f"{split}/{name.removeprefix(f'{split}_')}"
    return f"train/{name}"


def as_float(value: float) -> float:
    """Return a number, or truth value, as a float: an infinity, where a whole number is beyond all floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the entries that are numbers, nested ones by names such as "eval_f1/cats"."""
    for name, value in values.items():
        if isinstance(value, (bool, int, float)):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in numbers(value))
