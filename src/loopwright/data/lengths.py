"""Group examples of about the same length into batches, for `train_sampling_strategy="group_by_length"`.

Less padding, and still random: an epoch's permutation is cut into stretches of up to 50 updates, and each is sorted by
length, as in transformers, whose order it is for the same generator. The longest example of all comes first, so that
memory that won't suffice is found out at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from loopwright._support.extras import require
from loopwright.data.columns import is_column_dataset
from loopwright.data.loaders import data_seed, has_length
from loopwright.data.samplers import EpochSampler
from loopwright.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

_Lengths = np.ndarray[Any, Any]

_MOST_BATCHES_SORTED = 50
_FEWEST_STRETCHES = 4


class LengthGroupedSampler(EpochSampler):
    """Yields every index once an epoch, examples of about the same length side by side.

    Arguments:
        lengths: Of each example.
        group_size: Examples in an update.
        seed: As for `EpochSampler`.
    """

    def __init__(self, lengths: Sequence[int] | _Lengths, *, group_size: int, seed: int) -> None:
        super().__init__(len(lengths), seed=seed)
        self.lengths = np.asarray(lengths)
        self.group_size = group_size

    def _order(self, generator: torch.Generator) -> torch.Tensor:
        order = super()._order(generator).numpy()
        if not len(order):
            return torch.from_numpy(order)
        stretch = self.group_size * (
            min(len(order) // (self.group_size * _FEWEST_STRETCHES), _MOST_BATCHES_SORTED) or 1
        )
        # One stable sort: by stretch, and in it from the longest on.
        order = order[np.lexsort((-self.lengths[order], np.arange(len(order)) // stretch))]
        firsts = order[::stretch]
        longest = int(np.argmax(self.lengths[firsts])) * stretch
        order[[0, longest]] = order[[longest, 0]]
        return torch.from_numpy(order)


def group_by_length(dataset: Any, args: TrainingArguments, main_input: str, batch_size: int) -> LengthGroupedSampler:
    """Return the sampler for `dataset`, before columns are dropped from it.

    Raises:
        ArgumentError: it is iterable, so that no order can be chosen.
        DataError: the examples' lengths can't be known.
    """
    if isinstance(dataset, IterableDataset) or not has_length(dataset):
        raise ArgumentError(
            f"train_sampling_strategy='group_by_length' with a {type(dataset).__name__}: expected a dataset with a "
            "length, whose examples can be had in any order"
        )
    lengths = find_lengths(dataset, args.length_column_name, main_input)
    group_size = batch_size * args.gradient_accumulation_steps
    return LengthGroupedSampler(lengths, group_size=group_size, seed=data_seed(args))


def find_lengths(dataset: Any, column: str, main_input: str) -> _Lengths:
    """Return the length of each example: what `column` says, or else how many elements `main_input` has.

    A `datasets.Dataset` is asked for the column alone; other data are read once, from beginning to end.

    Raises:
        DataError: the examples have neither.
    """
    if is_column_dataset(dataset):
        return _of_columns(dataset, column, main_input)
    if not len(dataset):
        return np.zeros(0, dtype=np.int64)
    first = dataset[0]
    if isinstance(first, Mapping) and column in first:
        return np.fromiter((int(dataset[index][column]) for index in range(len(dataset))), np.int64, len(dataset))
    if not isinstance(first, Mapping) or main_input not in first:
        found = f"a {type(first).__name__}" if not isinstance(first, Mapping) else f"only {', '.join(map(str, first))}"
        raise _unknown(column, main_input, found)
    try:
        return np.fromiter((len(dataset[index][main_input]) for index in range(len(dataset))), np.int64, len(dataset))
    except TypeError as error:
        raise _unknown(column, main_input, f"a {type(first[main_input]).__name__} as {main_input!r}") from error


def _of_columns(dataset: Any, column: str, main_input: str) -> _Lengths:
    name = next((name for name in (column, main_input) if name in dataset.column_names), None)
    if name is None:
        raise _unknown(column, main_input, f"only {', '.join(dataset.column_names)}")
    values = dataset.select_columns([name]).with_format("arrow")[:].column(name)
    if name == main_input:
        compute = require("pyarrow.compute", extra="datasets", purpose="grouping by length")
        try:
            values = compute.list_value_length(values)
        except NotImplementedError as error:  # pyarrow's, for what is no list
            raise _unknown(column, main_input, f"{values.type} as {main_input!r}") from error
    if values.null_count:
        raise _unknown(column, main_input, f"{values.null_count} examples without a {name!r}")
    lengths: _Lengths = values.to_numpy()
    return lengths


def _unknown(column: str, main_input: str, found: str) -> DataError:
    return DataError(
        f"train_sampling_strategy='group_by_length': can't tell how long the examples are; expected their lengths as "
        f"{column!r} (length_column_name) or lists as {main_input!r}, found {found}"
    )
