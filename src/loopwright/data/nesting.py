"""Walk through values nested in mappings, lists and tuples, and rebuild containers of the same types."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch

_PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes})


def map_leaves(nested: Any, function: Callable[[Any], Any]) -> Any:
    """Return `nested` with `function` of every leaf, in containers of the same types; itself where nothing changed."""
    if isinstance(nested, Mapping):
        mapped = {key: map_leaves(value, function) for key, value in nested.items()}
        return nested if _are_same(mapped.values(), nested.values()) else rebuild_mapping(nested, mapped)
    # A sequence that can move itself is a whole: of a PackedSequence, some tensors must stay on the CPU.
    if isinstance(nested, (list, tuple)) and not hasattr(nested, "to"):
        items = [map_leaves(item, function) for item in nested]
        return nested if _are_same(items, nested) else rebuild_sequence(nested, items)
    return function(nested)


def as_plain(nested: Any) -> Any:
    """Return `nested` in dicts, lists and tuples, holding nothing but tensors, arrays of numbers, numbers and text.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(nested, Mapping):
        return {as_plain(key): as_plain(value) for key, value in nested.items()}
    if isinstance(nested, (list, tuple)) and not hasattr(nested, "to"):
        kind = list if isinstance(nested, list) else tuple
        return kind(as_plain(item) for item in nested)
    # Nothing that derives from an array, memory-mapped ones say: a file would name its class, and not be read back.
    if type(nested) is np.ndarray and nested.dtype.kind in "biufc":
        return nested
    if isinstance(nested, np.generic) and nested.dtype.kind in "biufc":
        return nested.item()
    if type(nested) is torch.Tensor:
        return nested.clone() if _is_part_of_more(nested) else nested
    if type(nested) in _PLAIN_TYPES:
        return nested
    raise TypeError(f"a {type(nested).__name__} is no plain value")


def rebuild_mapping(like: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return a mapping of the type of `like`, which has the same keys, that holds `items`."""
    if type(like) is dict:
        return items
    if not isinstance(like, MutableMapping):
        return type(like)(items)  # type: ignore[call-arg]
    # A copy with its values replaced, not `type(like)(items)`: a defaultdict's constructor wants something else, and
    # a tokenizer's BatchEncoding holds more than its items. Not `update`: a ModelOutput forbids it.
    rebuilt = copy.copy(like)
    for key, value in items.items():
        rebuilt[key] = value
    return rebuilt


def rebuild_sequence(like: list[Any] | tuple[Any, ...], items: list[Any]) -> Any:
    """Return a list or tuple of the type of `like` that holds `items`."""
    if hasattr(like, "_fields"):  # a named tuple takes its items one by one
        return type(like)(*items)
    return type(like)(items)


def _is_part_of_more(tensor: torch.Tensor) -> bool:
    """Return whether `tensor` is a view of a larger one, perhaps the whole dataset, which a file would hold too."""
    return tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes


def _are_same(left: Iterable[Any], right: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(left, right, strict=True))
