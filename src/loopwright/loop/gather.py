"""Gather what a model puts out, batch by batch, into one array for each output of a whole evaluation.

Batches are kept side by side and joined once at the end: joining them as they come would copy all that is there with
every batch, in time quadratic in their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from loopwright.data.nesting import map_leaves, rebuild_mapping, rebuild_sequence
from loopwright.errors import DataError

_Array = np.ndarray[Any, Any]

# What losses ignore as a label, and so what metrics written for transformers expect where a batch was shorter.
_PADDING = -100
_NUMPY_FLOATS = frozenset({torch.float16, torch.float32, torch.float64})


class OutputCollector:
    """Collects tensors, or tensors nested in mappings, lists and tuples: one nesting a batch, always of the same form.

    Every output is held once, and a second time only in what `arrays` returns.

    Arguments:
        concatenate: Whether `arrays` joins the batches along dimension 0; else it returns them one by one, which is
            what `eval_do_concat_batches=False` asks for.
        padding: Fills up rows where the second dimension differs between batches.
    """

    def __init__(self, *, concatenate: bool = True, padding: int = _PADDING) -> None:
        self.concatenate = concatenate
        self.padding = padding
        self._on_device: deque[Any] = deque()
        self._on_cpu: list[Any] = []
        self._first: Any = None

    def add(self, nested: Any) -> None:
        """Take in one batch's outputs, as copies: their own memory may serve the next batch (CUDA graphs do that).

        Raises:
            DataError: it holds something else than tensors, or its form isn't that of the first batch.
        """
        copies = map_leaves(nested, _copy)
        if self._first is None:
            self._first = map_leaves(copies, _form)
        elif self.concatenate:
            _check_form(self._first, copies, "outputs")
        self._on_device.append(copies)

    def to_cpu(self) -> None:
        """Move what was added since the last call into CPU memory."""
        while self._on_device:
            self._on_cpu.append(map_leaves(self._on_device.popleft(), _as_array))

    def arrays(self) -> Any:
        """Return all outputs as NumPy arrays (bfloat16 as float32), nested as they were added.

        Returns:
            Arrays of shape (examples, ...), or a list of each batch's where they aren't concatenated; None if no batch
            was added.
        """
        self.to_cpu()
        if not self._on_cpu:
            return None
        if not self.concatenate:
            return self._on_cpu
        self._on_cpu = [_join(self._on_cpu, self.padding)]
        return self._on_cpu[0]


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    if leaf is None:
        return None
    raise DataError(
        f"can't gather a model's output of type {type(leaf).__name__}: expected tensors, or mappings, lists and tuples "
        "of them. Leave it out with ignore_keys=, or convert it in preprocess_logits_for_metrics="
    )


def _form(leaf: Any) -> Any:
    """Return a leaf of the same shape that takes no memory."""
    return None if leaf is None else np.broadcast_to(np.int8(0), tuple(leaf.shape))


def _check_form(first: Any, other: Any, name: str) -> None:
    """Raise DataError unless `other` can be joined to batches that are like `first`."""
    if isinstance(first, Mapping) and isinstance(other, Mapping) and first.keys() == other.keys():
        for key, value in first.items():
            _check_form(value, other[key], f"{name}[{key!r}]")
    elif _is_sequence(first) and _is_sequence(other) and len(first) == len(other):
        for position, (one, another) in enumerate(zip(first, other, strict=True)):
            _check_form(one, another, f"{name}[{position}]")
    elif not (first is other is None or _are_joinable(first, other)):
        raise DataError(
            f"can't join the batches' {name}: the first was {_describe(first)}, a later one is {_describe(other)}. "
            "eval_do_concat_batches=False hands them on one by one"
        )


def _is_sequence(nested: Any) -> bool:
    return isinstance(nested, (list, tuple))


def _are_joinable(first: Any, other: Any) -> bool:
    """Return whether two leaves have as many dimensions (a scalar counts as 1), and equal ones from the third on."""
    if not all(isinstance(leaf, (torch.Tensor, np.ndarray)) for leaf in (first, other)):
        return False
    return max(first.ndim, 1) == max(other.ndim, 1) and tuple(first.shape[2:]) == tuple(other.shape[2:])


def _describe(nested: Any) -> str:
    if isinstance(nested, Mapping):
        return f"a mapping of {', '.join(map(str, nested))}"
    if _is_sequence(nested):
        return f"a {type(nested).__name__} of {len(nested)}"
    return "None" if nested is None else f"of shape {tuple(nested.shape)}"


def _as_array(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    tensor = leaf.cpu()
    if tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS:  # NumPy has no bfloat16
        tensor = tensor.float()
    return tensor.numpy()


def _join(batches: list[Any], padding: int) -> Any:
    first = batches[0]
    if isinstance(first, Mapping):
        return rebuild_mapping(first, {key: _join([batch[key] for batch in batches], padding) for key in first})
    if _is_sequence(first):
        return rebuild_sequence(first, [_join(list(column), padding) for column in zip(*batches, strict=True)])
    return None if first is None else _concatenate(batches, padding)


def _concatenate(arrays: list[_Array], padding: int) -> _Array:
    if len(arrays) == 1:
        return arrays[0]
    arrays = [np.atleast_1d(array) for array in arrays]
    widths = {array.shape[1] for array in arrays if array.ndim > 1}
    if len(widths) < 2:
        return np.concatenate(arrays)
    dtype = np.result_type(*{array.dtype for array in arrays})
    shape = (sum(len(array) for array in arrays), max(widths), *arrays[0].shape[2:])
    # Cast first: an unsigned type takes -100 modulo its range, as torch does, where np.full refuses.
    joined = np.full(shape, np.array(padding).astype(dtype))
    row = 0
    for array in arrays:
        joined[row : row + len(array), : array.shape[1]] = array
        row += len(array)
    return joined
