"""Each process's part of a stream: together they have every example of the whole, and none twice."""

from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import pytest

from loopwright.data.sharding import ShardedStream, Shards, shard_stream
from loopwright.errors import DataError


def stream(first=0, count=12, shards=4):
    rows = datasets.Dataset.from_dict({"x": list(range(first, first + count))})
    return rows.to_iterable_dataset(num_shards=shards)


SPLIT = {
    "plain": stream,
    "mapped": lambda: stream().map(lambda row: {"x": row["x"] + 1}),
    "filtered": lambda: stream().filter(lambda row: row["x"] % 3),
    "shuffled": lambda: stream().shuffle(seed=0, buffer_size=4),
    "shuffled by an old generator": lambda: stream().shuffle(
        generator=np.random.Generator(np.random.RandomState(3)._bit_generator)
    ),
    "of torch": lambda: stream().with_format("torch"),
    "chosen columns": lambda: stream().select_columns(["x"]),
    "repeated": lambda: stream().repeat(2),
    "concatenated": lambda: datasets.concatenate_datasets([stream(), stream(first=100, count=8)]),
}
READ_WHOLE = {
    "taken": lambda: stream(shards=8).take(5),
    "taken, mapped": lambda: stream().take(7).map(lambda row: {"x": row["x"] + 1}),
    "skipped": lambda: stream(shards=8).skip(5),
    "interleaved": lambda: datasets.interleave_datasets([stream(), stream(first=100, count=8)]),
    "interleaved, all of all": lambda: datasets.interleave_datasets(
        [stream(), stream(first=100, count=8)], stopping_strategy="all_exhausted"
    ),
    "interleaved at random": lambda: datasets.interleave_datasets(
        [stream(), stream(first=100, count=8)], probabilities=[0.5, 0.5], seed=0
    ),
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kind", [*SPLIT, *READ_WHOLE])
def test_processes_have_the_examples_of_the_whole_together(kind, size):
    make = {**SPLIT, **READ_WHOLE}[kind]
    parts = [shard_stream(make(), Shards(2, size, index)) for index in range(size)]
    assert all(isinstance(part, ShardedStream) == (kind in READ_WHOLE) for part in parts)
    assert Counter(int(row["x"]) for part in parts for row in part) == Counter(int(row["x"]) for row in make())


@pytest.mark.parametrize("size", [3, 5])
def test_files_that_can_not_be_dealt_out_evenly_are_read_by_all(size):
    parts = [shard_stream(stream(), Shards(2, size, index)) for index in range(size)]
    assert sorted(row["x"] for part in parts for row in part) == list(range(12))


@pytest.mark.parametrize(
    "make",
    [
        lambda: stream(shards=2).take(5),
        lambda: stream(shards=2).skip(5),
        lambda: datasets.interleave_datasets([stream(shards=2), stream(first=100, count=6, shards=2)]),
    ],
    ids=["taken", "skipped", "interleaved"],
)
def test_datasets_itself_still_splits_them_into_other_examples(make):
    """Where this fails, `datasets` has mended it, and they may be split by its own means."""
    from datasets.distributed import split_dataset_by_node

    parts = [split_dataset_by_node(make(), rank=index, world_size=2) for index in range(2)]
    assert sorted(row["x"] for part in parts for row in part) != sorted(row["x"] for row in make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: stream().shuffle(buffer_size=4),
        lambda: stream().shuffle(buffer_size=4).map(lambda row: row).take(3),
        lambda: datasets.interleave_datasets([stream(), stream().shuffle()]),
        lambda: datasets.interleave_datasets([stream(), stream()], probabilities=[0.5, 0.5]),
    ],
    ids=["shuffled", "and more", "one of two", "mixed"],
)
def test_order_that_each_process_would_draw_anew_is_refused(make):
    with pytest.raises(DataError, match=r"without a seed, .* as in shuffle\(seed=42\)"):
        shard_stream(make(), Shards(2, 2, 0))
