"""Loaders: built as asked, repeatable by seed and epoch, and continued at any batch without loading what is past."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

from loopwright.data.collate import default_data_collator
from loopwright.data.continuing import iterate_from
from loopwright.data.loaders import (
    begin_epoch,
    build_eval_loader,
    find_batch_size,
    has_length,
    num_examples,
)
from loopwright.data.samplers import EpochSampler
from loopwright.data.sharding import BatchShards
from loopwright.errors import ArgumentError, DataError
from tests.data.loading import Draws, Recorded, Stream, make_args, train_loader, values


def test_loaders_are_torch_loaders_and_honour_the_arguments():
    changes = {
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 3,
        "dataloader_multiprocessing_context": "spawn",
        "dataloader_in_order": False,
        "dataloader_drop_last": True,
    }
    train = train_loader(Recorded(10), **changes)
    evaluation = build_eval_loader(Recorded(10), make_args(**changes), default_data_collator, batch_size=4)
    for loader in (train, evaluation):
        assert isinstance(loader, DataLoader)
        assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (1, True, 3)
        assert loader.multiprocessing_context.get_start_method() == "spawn"
        assert loader.in_order is False
    assert (len(train), len(evaluation)) == (2, 3)


def test_evaluation_goes_through_everything_in_order():
    loader = build_eval_loader(Recorded(6), make_args(dataloader_drop_last=True), default_data_collator, batch_size=4)
    assert values(loader) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Recorded, Stream])
def test_processes_have_the_batches_of_one_in_turn(kind, workers):
    args = make_args(dataloader_num_workers=workers, dataloader_in_order=False)
    in_order = make_args(dataloader_num_workers=workers)
    for count, size in ((7, 2), (7, 4), (1, 3)) if workers else ((7, 2), (8, 2), (7, 4), (1, 3), (0, 2), (9, 1)):
        alone = values(build_eval_loader(kind(count), in_order, default_data_collator, batch_size=2))
        for index in range(size):
            shards = BatchShards(2, size, index)
            chosen = in_order if kind is Recorded else args
            loader = build_eval_loader(kind(count), chosen, default_data_collator, batch_size=2, shards=shards)
            assert values(loader) == alone[index::size]
            if has_length(loader):
                assert len(loader) == len(alone[index::size])


def test_training_order_is_shuffled_by_epoch_or_sequential():
    loader = train_loader(Recorded(10), seed=1, data_seed=9)
    begin_epoch(loader, 2)
    expected = EpochSampler(10, seed=9)
    expected.set_epoch(2)
    assert sum(values(loader), []) == list(expected)
    assert values(train_loader(Recorded(5), train_sampling_strategy="sequential")) == [[0, 1, 2, 3], [4]]


def test_a_sampler_of_the_users_own_decides_the_order():
    assert values(train_loader(Recorded(10), sampler=[7, 3, 3], batch_size=2)) == [[7, 3], [3]]


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ArgumentError, match="train_sampling_strategy='by_weight': expected \"random\" or"):
        train_loader(Recorded(10), train_sampling_strategy="by_weight")


def test_a_dataset_without_length_is_refused():
    class Endless:
        def __getitem__(self, index):
            return {"x": index}

    with pytest.raises(DataError, match="Endless: it has no length"):
        train_loader(Endless())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="pinned memory is wanted where there is an accelerator")
def test_pinned_memory_is_asked_for_without_warning_only_where_it_helps(recwarn):
    loader = train_loader(Recorded(4), dataloader_pin_memory=True)
    assert values(loader)
    assert loader.pin_memory is False
    assert not recwarn.list


def test_hugging_face_datasets_are_loaded_formatted_or_not():
    table = datasets.Dataset.from_dict({"x": list(range(6)), "text": list("abcdef")})
    for dataset in (table, table.with_format("torch"), table.with_format("numpy")):
        assert sorted(sum(values(train_loader(dataset)), [])) == [0, 1, 2, 3, 4, 5]
        loader = build_eval_loader(dataset, make_args(), default_data_collator, batch_size=4)
        assert values(loader) == [[0, 1, 2, 3], [4, 5]]


def test_hugging_face_streams_are_loaded_and_shuffled_anew_each_epoch():
    stream = datasets.Dataset.from_dict({"x": list(range(64))}).to_iterable_dataset().shuffle(seed=1, buffer_size=64)
    for dataset in (stream, stream.with_format("torch")):
        loader = train_loader(dataset, batch_size=64)
        epochs = []
        for epoch in (0, 1, 0):
            begin_epoch(loader, epoch)
            epochs.append(values(loader)[0])
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64))
        assert epochs[0] == epochs[2] != epochs[1]


def test_the_last_short_batch_of_a_stream_is_dropped_when_asked():
    assert values(train_loader(Stream(6), dataloader_drop_last=True)) == [[0, 1, 2, 3]]
    assert values(train_loader(Stream(6))) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_iterating_leaves_the_global_random_stream_alone(num_workers):
    loaders = [
        train_loader(Recorded(8), dataloader_num_workers=num_workers),
        train_loader(Stream(8), dataloader_num_workers=num_workers),
        build_eval_loader(
            Recorded(8), make_args(dataloader_num_workers=num_workers), default_data_collator, batch_size=4
        ),
    ]
    before = torch.get_rng_state()
    for loader in loaders:
        begin_epoch(loader, 1)
        assert len(list(iterate_from(loader, 1))) == 1
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_of_workers_depend_on_seed_and_epoch_alone():
    def draws(epoch, seed=3, earlier_epochs=()):
        loader = train_loader(Draws(), dataloader_num_workers=2, seed=seed, train_sampling_strategy="sequential")
        for earlier in earlier_epochs:
            begin_epoch(loader, earlier)
            list(loader)
        begin_epoch(loader, epoch)
        return values(loader)

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

    class Data(Remembers, Recorded):
        def __init__(self):
            Remembers.__init__(self)
            Recorded.__init__(self, 6)

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


@pytest.mark.parametrize("error", [TypeError, AttributeError, NotImplementedError, RuntimeError])
def test_a_length_that_raises_is_no_length(error):
    class Odd:
        def __len__(self):
            raise error("no")

    assert not has_length(Odd())
    assert not has_length(iter([]))
    assert not has_length(DataLoader(Stream(3)))
    assert has_length([])
    assert has_length(DataLoader(Recorded(3)))


def test_number_of_examples_is_that_of_the_dataset_or_of_the_batches():
    assert num_examples(DataLoader(Recorded(10), batch_size=4)) == 10

    class WithoutDataset:
        batch_size = 4

        def __len__(self):
            return 3

    assert num_examples(WithoutDataset()) == 12
    assert num_examples([1, 2, 3], batch_size=5) == 15
    with pytest.raises(DataError, match="how many examples a list has"):
        num_examples([1, 2, 3])
    with pytest.raises(DataError, match="how many examples a DataLoader has"):
        num_examples(DataLoader(Stream(10), batch_size=2))


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
