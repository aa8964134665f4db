"""Make a batch of examples: mappings of names to values become one mapping of names to tensors.

Nothing is checked beforehand: only when a batch can't be built is it looked into why, so that good data pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from loopwright._support.log import Logger, get_logger
from loopwright.data.columns import describe_ignored, nothing_left
from loopwright.errors import ArgumentError, DataError

logger: Logger = get_logger(__name__)

_LABEL_KEYS = ("label", "label_ids")
_MOST_NAMED = 8


def default_data_collator(features: Sequence[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack examples into a batch; the first one decides which names there are and of what type.

    `label` (one value an example) and `label_ids` (any number of them) become `labels`: int64 where the first is an
    integer, else float32. Text and None are left out.

    Arguments:
        features: Examples: mappings, or objects with attributes. Their values: numbers, (nested) lists of numbers,
            tensors, NumPy arrays; of equal shape for each name.
        return_tensors: "pt" for tensors, "np" for NumPy arrays.

    Returns:
        Each name's values, of shape (examples, ...).

    Raises:
        DataError: the examples, or the values of a name, can't be put into one batch.
    """
    if return_tensors not in ("pt", "np"):
        raise ArgumentError(f'return_tensors={return_tensors!r}: expected "pt" or "np"')
    stack = _stack_as_tensor if return_tensors == "pt" else _stack_as_array
    rows = _as_mappings(features)
    batch = {}
    if (label_key := next((key for key in _LABEL_KEYS if rows[0].get(key) is not None), None)) is not None:
        batch["labels"] = _build(rows, label_key, stack, _label_type(label_key, rows[0][label_key], return_tensors))
    for key, value in rows[0].items():
        if key not in _LABEL_KEYS and value is not None and not isinstance(value, str):
            batch[key] = _build(rows, key, stack, None)
    return batch


class ColumnDroppingCollator:
    """Drops what the model's forward doesn't take from each example, then collates: for data without columns.

    Arguments:
        collate: The collator proper.
        keep: The names to keep: what `columns.signature_columns` returned.
        description: What the dataset is for, such as "training", for messages.
        model_name: The model's class, for messages.

    Examples that aren't mappings go through untouched.
    """

    def __init__(
        self,
        collate: Callable[[Any], Any],
        keep: Collection[str],
        *,
        description: str = "training",
        model_name: str = "the model",
    ) -> None:
        self.collate = collate
        self.keep: tuple[str, ...] = tuple(keep)
        self.description = description
        self.model_name = model_name
        self._kept = frozenset(keep)
        self._has_logged = False

    def __call__(self, features: Sequence[Any]) -> Any:
        """Return the batch of `features`.

        Raises:
            DataError: the model takes nothing of an example.
        """
        # Nearly always so, and asked for every example of every batch: an isinstance of Mapping is dear.
        if set(map(type, features)) == {dict} and all(map(self._kept.issuperset, features)):
            return self.collate(features)
        return self.collate([self._without_unused(feature) for feature in features])

    def _without_unused(self, feature: Any) -> Any:
        if not isinstance(feature, Mapping) or feature.keys() <= self._kept:
            return feature
        used = {key: value for key, value in feature.items() if key in self._kept}
        if not used:
            raise nothing_left([str(key) for key in feature], self.keep, self.description, self.model_name)
        if not self._has_logged:
            self._has_logged = True
            ignored = [str(key) for key in feature if key not in self._kept]
            logger.info(describe_ignored(ignored, self.description, self.model_name))
        return used


def _as_mappings(features: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    if not features:
        raise DataError("can't make a batch of no examples")
    first = features[0]
    if isinstance(first, Mapping):
        return features
    if isinstance(first, (torch.Tensor, np.ndarray)) or not hasattr(first, "__dict__"):
        raise DataError(
            f"can't make a batch of examples of type {type(first).__name__}: expected mappings of names to values, as "
            "in {'input_ids': ..., 'labels': ...}. Let the dataset return these, or give data_collator= a function "
            "that makes the batch"
        )
    return [vars(feature) for feature in features]


def _label_type(key: str, first: Any, return_tensors: str) -> Any:
    """Return the type that labels get, or None for that of the tensors or arrays they are already."""
    if key == "label_ids":
        if isinstance(first, torch.Tensor if return_tensors == "pt" else np.ndarray):
            return None
        sample = first[0] if len(first) else 0
    else:
        if isinstance(first, (torch.Tensor, np.ndarray)) and np.prod(first.shape) != 1:
            return None
        sample = first.item() if isinstance(first, (torch.Tensor, np.ndarray)) else first
    is_whole = isinstance(sample, (int, np.integer))
    if return_tensors == "pt":
        return torch.int64 if is_whole else torch.float32
    return np.int64 if is_whole else np.float32


def _build(rows: Sequence[Mapping[str, Any]], key: str, stack: Callable[[list[Any], Any], Any], dtype: Any) -> Any:
    try:
        values = [row[key] for row in rows]
    except KeyError:
        lacking = [position for position, row in enumerate(rows) if key not in row]
        raise DataError(
            f"can't make a batch: its first example has {key!r}, and number {_listed(lacking)} lacks it"
        ) from None
    try:
        return stack(values, dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(_explain(key, values, error)) from error


def _stack_as_tensor(values: list[Any], dtype: torch.dtype | None) -> torch.Tensor:
    if isinstance(values[0], torch.Tensor):
        tensor = torch.stack(values)
    elif isinstance(values[0], np.ndarray):
        tensor = torch.from_numpy(np.stack(values))
    else:
        tensor = _tensor_of_numbers(values)
    return tensor if dtype is None else tensor.to(dtype)


def _tensor_of_numbers(values: list[Any]) -> torch.Tensor:
    """Return `torch.tensor(values)`; through NumPy where the result is the same, as that is 5 times as fast."""
    leaf: Any = values
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    if type(leaf) in (int, float, bool):
        array = np.array(values)
        if type(leaf) is float and array.dtype == np.float64:
            return torch.from_numpy(array).to(torch.get_default_dtype())
        if array.dtype == (np.int64 if type(leaf) is int else np.bool_):
            return torch.from_numpy(array)
    return torch.tensor(values)


def _stack_as_array(values: list[Any], dtype: Any) -> np.ndarray[Any, Any]:
    if isinstance(values[0], torch.Tensor):
        values = [value.numpy(force=True) for value in values]
    array = np.stack(values) if isinstance(values[0], np.ndarray) else np.array(values)
    return array if dtype is None else array.astype(dtype)


def _explain(key: str, values: list[Any], error: Exception) -> str:
    shapes = [_shape(value) for value in values]
    if len(set(shapes)) > 1:
        kind = "lengths" if all(isinstance(shape, int) for shape in shapes) else "shapes"
        return (
            f"can't make a batch of {key!r}: its {kind} differ ({_listed(shapes)}). Pad them: "
            "data_collator=DataCollatorWithPadding(tokenizer) does that for text; else give data_collator= a function "
            "that makes the batch"
        )
    kinds = list(dict.fromkeys(type(value).__name__ for value in values))
    return (
        f"can't make a batch of {key!r}, whose values are of type {_listed(kinds)}: {error}. Convert them to numbers "
        "in the dataset, leave them out, or give data_collator= a function that makes the batch"
    )


def _shape(value: Any) -> int | tuple[int, ...]:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return shape[0] if len(shape) == 1 else tuple(shape)
    return len(value) if isinstance(value, (list, tuple)) else ()


def _listed(things: Sequence[Any]) -> str:
    shown = ", ".join(str(thing) for thing in things[:_MOST_NAMED])
    return shown if len(things) <= _MOST_NAMED else f"{shown}, ..."
