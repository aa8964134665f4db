"""A loader goes on in the middle of an epoch, by its state, its indices or by reading past what was used."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from loopwright.data.collate import default_data_collator
from loopwright.data.continuing import iterate_from
from loopwright.data.loaders import begin_epoch
from loopwright.data.samplers import EpochSampler
from loopwright.errors import DataError
from tests.data.loading import Recorded, Stream, train_loader, values


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_training_continues_at_a_batch_without_loading_those_before(num_workers, drop_last):
    dataset = Recorded(22)
    loader = train_loader(dataset, dataloader_num_workers=num_workers, dataloader_drop_last=drop_last)
    begin_epoch(loader, 1)
    whole = values(loader)
    for position in range(len(loader) + 1):
        begin_epoch(loader, 1)
        dataset.loaded.zero_()
        assert values(iterate_from(loader, position)) == whole[position:]
        skipped = sum(whole[:position], [])
        assert int(dataset.loaded.sum()) == sum(map(len, whole[position:]))
        assert int(dataset.loaded[skipped].sum()) == 0
    assert values(loader) == whole


class _OwnIteration(DataLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield {"x": batch["x"] + 100}


def _by_length_batches():
    return [[5, 4, 3], [2], [1, 0], [9, 8, 7, 6]]


def _users_loaders(dataset, num_workers, persistent):
    options = {
        "collate_fn": default_data_collator,
        "num_workers": num_workers,
        "persistent_workers": persistent and num_workers > 0,
    }
    shuffled = RandomSampler(dataset, generator=torch.Generator())
    return {
        "in order": DataLoader(dataset, batch_size=3, **options),
        "shuffled": DataLoader(dataset, batch_size=3, sampler=shuffled, **options),
        "short batch dropped": DataLoader(dataset, batch_size=3, sampler=shuffled, drop_last=True, **options),
        "batches given": DataLoader(dataset, batch_sampler=_by_length_batches(), **options),
        "batches of our sampler": DataLoader(
            dataset, batch_sampler=BatchSampler(EpochSampler(10, seed=1), 3, drop_last=True), **options
        ),
        "no batches": DataLoader(
            dataset, batch_size=None, sampler=shuffled, **(options | {"collate_fn": default_tensors})
        ),
    }


def default_tensors(example):
    return {"x": torch.tensor([example["x"]])}


@pytest.mark.parametrize(("num_workers", "persistent"), [(0, False), (1, False), (1, True)])
@pytest.mark.parametrize(
    "kind", ["in order", "shuffled", "short batch dropped", "batches given", "no batches", "batches of our sampler"]
)
def test_loaders_of_users_continue_without_loading_what_is_past(kind, num_workers, persistent):
    dataset = Recorded(10)
    loader = _users_loaders(dataset, num_workers, persistent)[kind]

    def begin():
        if isinstance(loader.sampler, RandomSampler):
            loader.sampler.generator.manual_seed(4)

    begin()
    whole = values(loader)
    for position in (1, len(whole) - 1):
        begin()
        dataset.loaded.zero_()
        assert values(iterate_from(loader, position)) == whole[position:]
        assert int(dataset.loaded.sum()) == sum(map(len, whole[position:]))
        begin()
        assert values(loader) == whole


def test_loaders_that_iterate_in_a_way_of_their_own_are_replayed():
    loader = _OwnIteration(Recorded(10), batch_size=3, collate_fn=default_data_collator)
    whole = values(loader)
    assert whole[0] == [100, 101, 102]
    assert values(iterate_from(loader, 2)) == whole[2:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_are_replayed_before_the_iterator_is_returned(num_workers):
    loader = train_loader(Stream(100), batch_size=2, dataloader_num_workers=num_workers)
    whole = values(loader)
    seen = []
    batches = iterate_from(loader, 40, on_skip=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 40) for done in range(1, 41)]
    assert values(batches) == whole[40:]


def test_any_iterable_of_batches_is_replayed():
    assert list(iterate_from([1, 2, 3], 2)) == [3]
    assert list(iterate_from([1, 2, 3], 0)) == [1, 2, 3]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Recorded(10), batch_size=4),
        DataLoader(Stream(10), batch_size=4),
        train_loader(Recorded(10)),
        [1, 2, 3],
    ],
    ids=["map-style", "stream", "ours", "list"],
)
def test_continuing_beyond_the_data_is_an_error(loader):
    with pytest.raises(DataError, match="can't continue after batch 25 of the epoch: the data has only 3"):
        iterate_from(loader, 25)
