"""Loaders: built as asked, repeatable by seed and epoch, and continued at any batch without loading what is past."""

from __future__ import annotations

import random
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from loopwright.data.collate import default_data_collator
from loopwright.data.loaders import (
    begin_epoch,
    build_eval_loader,
    build_train_loader,
    find_batch_size,
    has_length,
    iterate_from,
    num_examples,
)
from loopwright.data.samplers import EpochSampler
from loopwright.errors import ArgumentError, DataError


def _args(**changes):
    values = {
        "seed": 3,
        "data_seed": None,
        "use_cpu": False,
        "train_sampling_strategy": "random",
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": True,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
        "dataloader_multiprocessing_context": None,
        "dataloader_in_order": True,
    }
    return SimpleNamespace(**(values | changes))


class _Recorded(torch.utils.data.Dataset):
    """Remembers, in memory that workers share, which examples were loaded."""

    def __init__(self, length):
        self.loaded = torch.zeros(length, dtype=torch.int64).share_memory_()

    def __len__(self):
        return len(self.loaded)

    def __getitem__(self, index):
        self.loaded[index] += 1
        return {"x": index}


class _Stream(IterableDataset):
    def __init__(self, length):
        self.length = length
        self.epochs = []

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return ({"x": index} for index in range(first, self.length, step))

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class _Draws(torch.utils.data.Dataset):
    """Returns what each of the three random streams gives in the process that loads."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": [random.random(), float(np.random.rand()), float(torch.rand(()))]}


def _train_loader(dataset, batch_size=4, sampler=None, **changes):
    return build_train_loader(dataset, _args(**changes), default_data_collator, sampler=sampler, batch_size=batch_size)


def _values(batches):
    return [batch["x"].tolist() for batch in batches]


def test_loaders_are_torch_loaders_and_honour_the_arguments():
    changes = {
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 3,
        "dataloader_multiprocessing_context": "spawn",
        "dataloader_in_order": False,
        "dataloader_drop_last": True,
    }
    train = _train_loader(_Recorded(10), **changes)
    evaluation = build_eval_loader(_Recorded(10), _args(**changes), default_data_collator, batch_size=4)
    for loader in (train, evaluation):
        assert isinstance(loader, DataLoader)
        assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (1, True, 3)
        assert loader.multiprocessing_context.get_start_method() == "spawn"
        assert loader.in_order is False
    assert (len(train), len(evaluation)) == (2, 3)


def test_evaluation_goes_through_everything_in_order():
    loader = build_eval_loader(_Recorded(6), _args(dataloader_drop_last=True), default_data_collator, batch_size=4)
    assert _values(loader) == [[0, 1, 2, 3], [4, 5]]


def test_training_order_is_shuffled_by_epoch_or_sequential():
    loader = _train_loader(_Recorded(10), seed=1, data_seed=9)
    begin_epoch(loader, 2)
    expected = EpochSampler(10, seed=9)
    expected.set_epoch(2)
    assert sum(_values(loader), []) == list(expected)
    assert _values(_train_loader(_Recorded(5), train_sampling_strategy="sequential")) == [[0, 1, 2, 3], [4]]


def test_a_sampler_of_the_users_own_decides_the_order():
    assert _values(_train_loader(_Recorded(10), sampler=[7, 3, 3], batch_size=2)) == [[7, 3], [3]]


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ArgumentError, match="train_sampling_strategy='by_weight': expected \"random\" or"):
        _train_loader(_Recorded(10), train_sampling_strategy="by_weight")


def test_a_dataset_without_length_is_refused():
    class Endless:
        def __getitem__(self, index):
            return {"x": index}

    with pytest.raises(DataError, match="Endless: it has no length"):
        _train_loader(Endless())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="pinned memory is wanted where there is an accelerator")
def test_pinned_memory_is_asked_for_without_warning_only_where_it_helps(recwarn):
    loader = _train_loader(_Recorded(4), dataloader_pin_memory=True)
    assert _values(loader)
    assert loader.pin_memory is False
    assert not recwarn.list


def test_hugging_face_datasets_are_loaded_formatted_or_not():
    table = datasets.Dataset.from_dict({"x": list(range(6)), "text": list("abcdef")})
    for dataset in (table, table.with_format("torch"), table.with_format("numpy")):
        assert sorted(sum(_values(_train_loader(dataset)), [])) == [0, 1, 2, 3, 4, 5]
        loader = build_eval_loader(dataset, _args(), default_data_collator, batch_size=4)
        assert _values(loader) == [[0, 1, 2, 3], [4, 5]]


def test_hugging_face_streams_are_loaded_and_shuffled_anew_each_epoch():
    stream = datasets.Dataset.from_dict({"x": list(range(64))}).to_iterable_dataset().shuffle(seed=1, buffer_size=64)
    for dataset in (stream, stream.with_format("torch")):
        loader = _train_loader(dataset, batch_size=64)
        epochs = []
        for epoch in (0, 1, 0):
            begin_epoch(loader, epoch)
            epochs.append(_values(loader)[0])
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64))
        assert epochs[0] == epochs[2] != epochs[1]


def test_the_last_short_batch_of_a_stream_is_dropped_when_asked():
    assert _values(_train_loader(_Stream(6), dataloader_drop_last=True)) == [[0, 1, 2, 3]]
    assert _values(_train_loader(_Stream(6))) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_iterating_leaves_the_global_random_stream_alone(num_workers):
    loaders = [
        _train_loader(_Recorded(8), dataloader_num_workers=num_workers),
        _train_loader(_Stream(8), dataloader_num_workers=num_workers),
        build_eval_loader(_Recorded(8), _args(dataloader_num_workers=num_workers), default_data_collator, batch_size=4),
    ]
    before = torch.get_rng_state()
    for loader in loaders:
        begin_epoch(loader, 1)
        assert len(list(iterate_from(loader, 1))) == 1
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_of_workers_depend_on_seed_and_epoch_alone():
    def draws(epoch, seed=3, earlier_epochs=()):
        loader = _train_loader(_Draws(), dataloader_num_workers=2, seed=seed, train_sampling_strategy="sequential")
        for earlier in earlier_epochs:
            begin_epoch(loader, earlier)
            list(loader)
        begin_epoch(loader, epoch)
        return _values(loader)

    first = draws(1, earlier_epochs=(0,))
    torch.rand(3)
    assert draws(1) == first
    assert draws(2) != first
    assert draws(1, seed=4) != first
    assert len({number for batch in first for example in batch for number in example}) == 24


def test_an_epoch_begins_everywhere():
    class Remembers:
        def __init__(self):
            self.epochs = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    class Batches(Remembers):
        def __iter__(self):
            return iter([[0, 1], [2]])

    class Data(Remembers, _Recorded):
        def __init__(self):
            Remembers.__init__(self)
            _Recorded.__init__(self, 6)

    distributed = DistributedSampler(range(6), num_replicas=1, rank=0, shuffle=True)
    dataset, batches = Data(), Batches()
    begin_epoch(DataLoader(dataset, sampler=distributed), 3)
    assert (distributed.epoch, dataset.epochs) == (3, [3])
    begin_epoch(DataLoader(dataset, batch_sampler=batches), 4)
    assert (batches.epochs, dataset.epochs) == ([4], [3, 4])
    distributed_in_batches = BatchSampler(distributed, 2, drop_last=False)
    begin_epoch(DataLoader(dataset, batch_sampler=distributed_in_batches), 5)
    assert distributed.epoch == 5
    begin_epoch([1, 2, 3], 6)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_training_continues_at_a_batch_without_loading_those_before(num_workers, drop_last):
    dataset = _Recorded(22)
    loader = _train_loader(dataset, dataloader_num_workers=num_workers, dataloader_drop_last=drop_last)
    begin_epoch(loader, 1)
    whole = _values(loader)
    for position in range(len(loader) + 1):
        begin_epoch(loader, 1)
        dataset.loaded.zero_()
        assert _values(iterate_from(loader, position)) == whole[position:]
        skipped = sum(whole[:position], [])
        assert int(dataset.loaded.sum()) == sum(map(len, whole[position:]))
        assert int(dataset.loaded[skipped].sum()) == 0
    assert _values(loader) == whole


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
    dataset = _Recorded(10)
    loader = _users_loaders(dataset, num_workers, persistent)[kind]

    def begin():
        if isinstance(loader.sampler, RandomSampler):
            loader.sampler.generator.manual_seed(4)

    begin()
    whole = _values(loader)
    for position in (1, len(whole) - 1):
        begin()
        dataset.loaded.zero_()
        assert _values(iterate_from(loader, position)) == whole[position:]
        assert int(dataset.loaded.sum()) == sum(map(len, whole[position:]))
        begin()
        assert _values(loader) == whole


def test_loaders_that_iterate_in_a_way_of_their_own_are_replayed():
    loader = _OwnIteration(_Recorded(10), batch_size=3, collate_fn=default_data_collator)
    whole = _values(loader)
    assert whole[0] == [100, 101, 102]
    assert _values(iterate_from(loader, 2)) == whole[2:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_are_replayed_before_the_iterator_is_returned(num_workers):
    loader = _train_loader(_Stream(100), batch_size=2, dataloader_num_workers=num_workers)
    whole = _values(loader)
    seen = []
    batches = iterate_from(loader, 40, on_skip=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 40) for done in range(4, 41, 4)]
    assert _values(batches) == whole[40:]


def test_any_iterable_of_batches_is_replayed():
    assert list(iterate_from([1, 2, 3], 2)) == [3]
    assert list(iterate_from([1, 2, 3], 0)) == [1, 2, 3]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(_Recorded(10), batch_size=4),
        DataLoader(_Stream(10), batch_size=4),
        _train_loader(_Recorded(10)),
        [1, 2, 3],
    ],
    ids=["map-style", "stream", "ours", "list"],
)
def test_continuing_beyond_the_data_is_an_error(loader):
    with pytest.raises(DataError, match="can't continue after batch 25 of the epoch: the data has only 3"):
        iterate_from(loader, 25)


@pytest.mark.parametrize("error", [TypeError, AttributeError, NotImplementedError, RuntimeError])
def test_a_length_that_raises_is_no_length(error):
    class Odd:
        def __len__(self):
            raise error("no")

    assert not has_length(Odd())
    assert not has_length(iter([]))
    assert not has_length(DataLoader(_Stream(3)))
    assert has_length([])
    assert has_length(DataLoader(_Recorded(3)))


def test_number_of_examples_is_that_of_the_dataset_or_of_the_batches():
    assert num_examples(DataLoader(_Recorded(10), batch_size=4)) == 10

    class WithoutDataset:
        batch_size = 4

        def __len__(self):
            return 3

    assert num_examples(WithoutDataset()) == 12
    assert num_examples([1, 2, 3], batch_size=5) == 15
    with pytest.raises(DataError, match="how many examples a list has"):
        num_examples([1, 2, 3])
    with pytest.raises(DataError, match="how many examples a DataLoader has"):
        num_examples(DataLoader(_Stream(10), batch_size=2))


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        (np.zeros((4, 2)), 4),
        ({"a": "text", "b": torch.zeros(5)}, 5),
        (transformers.BatchEncoding({"input_ids": torch.zeros(6, 1)}), 6),
        ([torch.tensor(1.0), (None, {"x": torch.zeros(7)})], 7),
        (torch.tensor(1.0), None),
        ({"a": [1, 2]}, None),
        (None, None),
    ],
)
def test_batch_size_is_that_of_the_first_tensor(batch, size):
    assert find_batch_size(batch) == size
