"""Choose the order of examples, with the position in it as state that can be set.

The order of an epoch depends on the seed and the epoch's number alone, so a run that continues in the middle of
epoch 7 needs neither the epochs before nor a saved permutation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from loopwright.errors import ArgumentError, DataError

# A permutation becomes Python ints piece by piece: the whole of 100 million examples would take 4 GB as a list.
_INDICES_AT_ONCE = 65_536


class EpochSampler(Sampler[int]):
    """Yields every index once an epoch: the order that transformers' Trainer gives for the same seed.

    Arguments:
        num_examples: How many examples the dataset has.
        seed: With the epoch's number, decides the order: `torch.randperm` of a generator seeded with their sum.
        shuffle: Whether to shuffle at all.
    """

    def __init__(self, num_examples: int, *, seed: int, shuffle: bool = True) -> None:
        self.num_examples = num_examples
        self.seed = seed
        self.shuffle = shuffle
        self.epoch: int = 0
        self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin epoch `epoch`, at its first example."""
        self.epoch = epoch
        self._start = 0

    def skip(self, num_examples: int) -> None:
        """Let the next pass, and only that one, begin after `num_examples` of this epoch's examples."""
        if not 0 <= num_examples <= self.num_examples:
            raise ArgumentError(f"num_examples={num_examples}: expected 0 to {self.num_examples}, the dataset's length")
        self._start = num_examples

    def __iter__(self) -> Iterator[int]:
        # A generator on purpose: a DataLoader with workers makes two iterators and reads only the second, so that
        # the position must fall with the first index read, not before.
        start, self._start = self._start, 0
        if not self.shuffle:
            yield from range(start, self.num_examples)
            return
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = self._order(generator)
        for first in range(start, self.num_examples, _INDICES_AT_ONCE):
            yield from order[first : first + _INDICES_AT_ONCE].tolist()

    def _order(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(self.num_examples, generator=generator, device="cpu")

    def __len__(self) -> int:
        return self.num_examples


def step_over(items: Iterator[object], num_items: int) -> int:
    """Take up to `num_items` from `items`, and return how many there were."""
    return sum(1 for _ in islice(items, num_items))


def too_few_batches(num_batches: int, found: int) -> DataError:
    """Return the error that says that the epoch ends before the place to continue at."""
    return DataError(
        f"can't continue after batch {num_batches} of the epoch: the data has only {found}. It is other data than the "
        "checkpoint was made with, or the batch size or dataloader_drop_last changed; ignore_data_skip=True begins "
        "the epoch anew"
    )
