"""Give each of several processes its part of every batch: no example is lost, none counts twice.

    order of the epoch    0 1 2 3 | 4 5 6 7 | 8 9 10        with 2 processes and batches of 2
    process 0             0 1       4 5       8 9
    process 1                 2 3       6 7       10

All go through the same order, and the examples between two bars are one batch of all. So where a training stands is the
number of these, whatever the number of processes, and a run of 2 processes with batches of 2 sees what one process
with batches of 4 sees. A last batch that is short is shared out as evenly as can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, Sampler

from loopwright.data.samplers import EpochSampler
from loopwright.data.streams import has_an_order_of_its_own, is_whole_when_split
from loopwright.errors import DataError


class Shards:
    """Which part of a batch of all belongs to which process.

    Arguments:
        batch_size: Examples of one process.
        size: How many processes.
        index: Which this one is, counted from 0.
    """

    def __init__(self, batch_size: int, size: int, index: int) -> None:
        self.batch_size = batch_size
        self.size = size
        self.index = index

    @property
    def whole(self) -> int:
        """Examples in a batch of all."""
        return self.batch_size * self.size

    def part(self, count: int) -> slice:
        """Return where in a batch of all, which has `count` examples, this process's are; perhaps none."""
        least, more = divmod(count, self.size)
        first = self.index * least + min(self.index, more)
        return slice(first, first + least + (self.index < more))

    def count(self, count: int) -> int:
        """Return how many examples of a batch of all, which has `count`, are this process's."""
        part = self.part(count)
        found: int = part.stop - part.start
        return found


class BatchShards(Shards):
    """Parts that are the very batches which one process alone would make: the last one is not shared out.

    So an evaluation comes to the same as in one process also where a model's loss or output depends on which examples
    are together in a batch. A process may have no part of the last batch of all.
    """

    def part(self, count: int) -> slice:
        """Return where in a batch of all, which has `count` examples, this process's are; perhaps none."""
        first = min(self.index * self.batch_size, count)
        return slice(first, min(first + self.batch_size, count))


class ShardedBatches(Sampler[list[int]]):
    """A batch sampler that yields this process's part of each batch of all.

    Arguments:
        sampler: Gives the order, the same in all processes.
        shards: Which part is this process's.
        drop_last: Whether a last batch that is short is left out.
        fills_up: Whether a process that has no part of the last batch gets an example of another's in its place: in a
            training all have to come to every step. `num_own` says that it doesn't count.
    """

    def __init__(
        self, sampler: EpochSampler, shards: Shards, *, drop_last: bool = False, fills_up: bool = True
    ) -> None:
        self.sampler = sampler
        self.shards = shards
        self.drop_last = drop_last
        self.fills_up = fills_up

    @property
    def batch_size(self) -> int:
        """Examples of one process."""
        return self.shards.batch_size

    def skip(self, num_batches: int) -> None:
        """Let the next pass, and only that one, begin after `num_batches` batches of all."""
        self.sampler.skip(min(num_batches * self.shards.whole, len(self.sampler)))

    def __iter__(self) -> Iterator[list[int]]:
        whole = self.shards.whole
        indices = iter(self.sampler)
        while batch := list(islice(indices, whole)):
            if len(batch) < whole and self.drop_last:
                return
            own = batch[self.shards.part(len(batch))]
            if own or self.fills_up:
                yield own or batch[:1]

    def num_own(self, number: int) -> int:
        """Return how many examples of batch `number` of all, counted from 0, are this process's own."""
        return self.shards.count(min(self.shards.whole, len(self.sampler) - number * self.shards.whole))

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.shards.whole)
        has_rest = rest > 0 and not self.drop_last
        if has_rest and not self.fills_up:
            has_rest = self.shards.count(rest) > 0
        return full + has_rest


def shard_stream(dataset: Any, shards: Shards, *, drop_last: bool = False) -> Any:
    """Return this process's part of an iterable dataset.

    A Hugging Face stream is split by its own means where its files can be dealt out evenly and no example is lost by
    it, so that each process reads its own alone; any other is read whole by every process, which keeps its part.

    Raises:
        DataError: it is shuffled without a seed, so that each process would take its part of another order.
    """
    if has_an_order_of_its_own(dataset):
        raise DataError(
            "the stream is shuffled or interleaved at random without a seed, so each process would read it in another "
            "order, and examples would be lost and doubled: expected a seed of up to 64 bits, as in shuffle(seed=42)"
        )
    if is_whole_when_split(dataset) and getattr(dataset, "num_shards", 1) % shards.size == 0:
        from datasets.distributed import split_dataset_by_node  # type: ignore[import-untyped]

        return split_dataset_by_node(dataset, rank=shards.index, world_size=shards.size)
    return ShardedStream(dataset, shards, drop_last=drop_last)


class ShardedStream(IterableDataset[Any]):
    """This process's part of an iterable dataset, which every process reads from beginning to end.

    Arguments:
        dataset: The whole. Where workers read it, each of them deals out what it reads, as they do without this.
        shards: Which part is this process's.
        drop_last: Whether a last batch that is short is left out.
    """

    def __init__(self, dataset: Iterable[Any], shards: Shards, *, drop_last: bool = False) -> None:
        self.dataset = dataset
        self.shards = shards
        self.drop_last = drop_last

    def set_epoch(self, epoch: int) -> None:
        """Tell the whole dataset, where it wants to know."""
        if callable(set_epoch := getattr(self.dataset, "set_epoch", None)):
            set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        examples = iter(self.dataset)
        while batch := list(islice(examples, self.shards.whole)):
            if len(batch) < self.shards.whole and self.drop_last:
                return
            yield from batch[self.shards.part(len(batch))]
