"""Gather what a model puts out, batch by batch, into one array for each output of a whole evaluation.

A batch is copied once, to its place in that array: joining what is there with every batch would take time quadratic in
their number, and joining all at the end twice the memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loopwright.data.nesting import map_leaves
from loopwright.errors import DataError
from loopwright.loop.growing import GrowingArray

_Array = np.ndarray[Any, Any]

# What losses ignore as a label, and so what metrics written for transformers expect where a batch was shorter.
_PADDING = -100
_ROWS_AT_ONCE = 1024
_NUMPY_FLOATS = frozenset({torch.float16, torch.float32, torch.float64})


class OutputCollector:
    """Collects tensors, or tensors nested in mappings, lists and tuples: one nesting a batch, always of the same form.

    Where the first is in CPU memory, each is copied to its place at once; else it stays where it is until `to_cpu`.

    Arguments:
        concatenate: Whether `arrays` joins the batches along dimension 0; else it returns them one by one, which is
            what `eval_do_concat_batches=False` asks for.
        padding: Fills up rows where the second dimension differs between batches.
        num_rows: How many rows there will be, as far as is known; may be set until the first batch.
        directory: Where joined arrays are kept in unnamed files; None for in memory.
        is_part: Whether this is one process's part of a whole, so that `batches` is to give back what was added.
    """

    def __init__(
        self,
        *,
        concatenate: bool = True,
        padding: int = _PADDING,
        num_rows: int | None = None,
        directory: Path | str | None = None,
        is_part: bool = False,
    ) -> None:
        self.concatenate = concatenate
        self.padding = padding
        self.num_rows = num_rows
        self.directory = directory
        self.is_part = is_part
        self._waiting: deque[Any] = deque()
        self._batches: list[Any] = []
        self._first: Any = None
        self._is_here = False  # whether the first batch was in CPU memory
        self._rows: Any = None
        self._joined: Any = None

    def add(self, nested: Any) -> None:
        """Take in one batch's outputs, as copies: their own memory may serve the next batch (CUDA graphs do that).

        Raises:
            DataError: it holds something else than tensors, or its form isn't that of the first batch.
        """
        if self._first is None:
            places: set[str] = set()
            map_leaves(nested, lambda leaf: places.add(_place_of(leaf)))
            self._first = map_leaves(nested, _form)
            self._is_here = places <= {"cpu"}
        self._joined = None
        if self.concatenate and self._is_here:
            self._take(nested)
            return
        copies = map_leaves(nested, _copy)
        if self.concatenate:
            _check_form(self._first, copies, "outputs")
        self._waiting.append(copies)

    def to_cpu(self) -> None:
        """Move what was added since the last call into CPU memory."""
        while self._waiting:
            batch = self._waiting.popleft()
            if self.concatenate:
                self._take(batch)
            else:
                self._batches.append(map_leaves(batch, _as_array))

    def arrays(self) -> Any:
        """Return all outputs as NumPy arrays (bfloat16 as float32), nested as they were added.

        Returns:
            Arrays of shape (examples, ...), or a list of each batch's where they aren't concatenated; None if no batch
            was added.
        """
        self.to_cpu()
        if self._first is None:
            return None
        if not self.concatenate:
            return self._batches
        if self._joined is None:
            self._joined = map_leaves(self._rows, lambda rows: None if rows is None else rows.array())
        return self._joined

    def whole(self, num_rows: int | None) -> OutputCollector:
        """Return an empty collector for what this one has a part of; it will have `num_rows` rows, if that is known."""
        return OutputCollector(
            concatenate=self.concatenate, padding=self.padding, num_rows=num_rows, directory=self.directory
        )

    @property
    def num_batches(self) -> int:
        """How many batches were added, where this is a part."""
        self.to_cpu()
        if not self.concatenate:
            return len(self._batches)
        return max((len(rows.parts) for rows in self._leaves()), default=0)

    @property
    def num_bytes(self) -> int:
        """How many bytes the arrays of all batches have, before any is filled up."""
        self.to_cpu()
        if self.concatenate:
            return sum(rows.num_bytes for rows in self._leaves())
        sizes: list[int] = []
        map_leaves(self._batches, lambda leaf: None if leaf is None else sizes.append(leaf.nbytes))
        return sum(sizes)

    def batches(self, begin: int, end: int) -> list[Any]:
        """Return batches number `begin` to before `end` of a part, as arrays nested as they were added."""
        self.to_cpu()
        if not self.concatenate:
            return self._batches[begin:end]
        return [self._batch(number) for number in range(begin, min(end, self.num_batches))]

    def _batch(self, number: int) -> Any:
        return map_leaves(self._rows, lambda rows: None if rows is None else rows.part(number))

    def _leaves(self) -> list[_Rows]:
        found: list[_Rows] = []
        map_leaves(self._rows, lambda rows: None if rows is None else found.append(rows))
        return found

    def _take(self, batch: Any) -> None:
        if self._rows is None:
            self._rows = map_leaves(batch, self._begin)
        if not _add_each(self._rows, batch):
            map_leaves(batch, _place_of)
            _check_form(self._first, batch, "outputs")

    def _begin(self, first: Any) -> _Rows | None:
        if first is None:
            return None
        kind = _PartOfRows if self.is_part else _Rows
        return kind(_as_array(first), self.padding, self.num_rows, self.directory)


class _Rows:
    """All rows of one output, side by side; of rows of several widths, as many beside each other as came together.

    Arguments:
        first: The first batch, of shape (rows, width, ...), (rows,) or ().
        padding: Fills up the shorter rows.
        num_rows: How many there will be, as far as is known.
        directory: See `GrowingArray`.

    Attributes:
        parts: Where each batch begins and its shape, where this is one process's part.
    """

    def __init__(self, first: _Array, padding: int, num_rows: int | None, directory: Path | str | None) -> None:
        self._padding = padding
        self._trailing = first.shape[2:]
        self._has_widths = first.ndim > 1
        self._only_shape: tuple[int, ...] | None = first.shape if first.ndim == 0 else None
        size_of_row = math.prod(first.shape[1:])
        capacity = size_of_row * (num_rows if num_rows is not None else len(np.atleast_1d(first)))
        self._flat = GrowingArray(first.dtype, capacity, directory)
        self._dtype = first.dtype
        self._runs: list[tuple[int, int]] = []  # number and width of rows that follow each other
        self._is_handed_out = False
        self.parts: list[tuple[int, tuple[int, ...]]] = []

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows as they came."""
        size: int = self._flat.size * self._dtype.itemsize
        return size

    def part(self, number: int) -> _Array:
        """Return batch `number` as it came, in the memory that it is kept in."""
        begin, shape = self.parts[number]
        return self._flat.array()[begin : begin + math.prod(shape)].reshape(shape)

    def add(self, batch: Any) -> bool:
        """Add a batch's rows; return False, and add none, where they can't stand below those that are there."""
        if isinstance(batch, torch.Tensor):
            batch = _as_array(batch)
        elif not isinstance(batch, np.ndarray):
            return False
        shape: tuple[int, ...] = batch.shape or (1,)
        if (len(shape) > 1) is not self._has_widths or shape[2:] != self._trailing:
            return False
        if self._is_handed_out or batch.dtype != self._dtype:
            self._dtype = np.result_type(self._dtype, batch.dtype)
            self._flat, self._is_handed_out = self._flat.copy(self._dtype), False
        self._flat.append(batch)
        rows, width = shape[0], shape[1] if self._has_widths else 1
        if self._runs:
            self._only_shape = None
            if self._runs[-1][1] == width:
                rows += self._runs.pop()[0]
        self._runs.append((rows, width))
        return True

    def array(self) -> _Array:
        """Return them as one array of shape (rows, greatest width, ...)."""
        if len(self._runs) > 1:
            self._fill_up()
        self._is_handed_out = True
        ((rows, width),) = self._runs
        shape = (rows, width, *self._trailing) if self._has_widths else (rows,)
        return self._flat.array().reshape(shape if self._only_shape is None else self._only_shape)

    def _fill_up(self) -> None:
        """Make all rows as wide as the widest, within the same memory: from the last one, as each moves to the back."""
        widest = max(width for _, width in self._runs)
        num_rows = sum(rows for rows, _ in self._runs)
        size = math.prod(self._trailing)
        source, target = self._flat.size, num_rows * widest * size
        self._flat.lengthen(target)
        room = self._flat.array()
        # Cast first: an unsigned type takes -100 modulo its range, as torch does, where NumPy refuses.
        padding = np.array(self._padding).astype(room.dtype)
        for run, width in reversed(self._runs):
            for rows in _in_parts(run):
                begin, goal = source - rows * width * size, target - rows * widest * size
                moved = room[begin:source].reshape(rows, width, size).copy()  # the places overlap
                filled = room[goal:target].reshape(rows, widest, size)
                filled[:, :width] = moved
                filled[:, width:] = padding
                source, target = begin, goal
        self._runs = [(num_rows, widest)]


class _PartOfRows(_Rows):
    """Rows that can be given back batch by batch."""

    def add(self, batch: Any) -> bool:
        begin = self._flat.size
        is_added = super().add(batch)
        if is_added:
            self.parts.append((begin, tuple(batch.shape)))
        return is_added


def _in_parts(rows: int) -> list[int]:
    whole, rest = divmod(rows, _ROWS_AT_ONCE)
    return [_ROWS_AT_ONCE] * whole + [rest] * (rest > 0)


def _add_each(rows: Any, batch: Any) -> bool:
    """Add every leaf of `batch` to that of `rows`; return False where they aren't of one form."""
    if isinstance(rows, _Rows):
        return rows.add(batch)
    if isinstance(rows, Mapping):
        is_alike = isinstance(batch, Mapping) and rows.keys() == batch.keys()
        return is_alike and all(_add_each(part, batch[key]) for key, part in rows.items())
    if _is_sequence(rows):
        is_alike = _is_sequence(batch) and len(rows) == len(batch)
        return is_alike and all(_add_each(part, values) for part, values in zip(rows, batch, strict=True))
    return batch is None


def _place_of(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return leaf.device.type
    if leaf is None or isinstance(leaf, np.ndarray):
        return "cpu"
    raise DataError(
        f"can't gather a model's output of type {type(leaf).__name__}: expected tensors, or mappings, lists and tuples "
        "of them. Leave it out with ignore_keys=, or convert it in preprocess_logits_for_metrics="
    )


def _copy(leaf: Any) -> Any:
    _place_of(leaf)
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone(memory_format=torch.contiguous_format)
    return None if leaf is None else leaf.copy()


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
    if leaf.requires_grad or not leaf.is_cpu:
        leaf = leaf.detach().cpu()
    if leaf.is_floating_point() and leaf.dtype not in _NUMPY_FLOATS:  # NumPy has no bfloat16
        leaf = leaf.float()
    return leaf.numpy()
