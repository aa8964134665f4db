"""A loader goes on in the middle of an epoch, by its state, its indices or by reading past what was used."""

from __future__ import annotations

import datasets
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from loopwright.data.collate import default_data_collator
from loopwright.data.continuing import carrier_of, is_read_past, iterate_from, why_read_past
from loopwright.data.loaders import begin_epoch
from loopwright.data.samplers import EpochSampler
from loopwright.errors import DataError
from tests.data.loading import Recorded, Stream, train_loader, values

# Of torchdata 0.11 under torch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


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


# A shuffle from the global stream


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": RandomSampler(range(10), replacement=True)}])
def test_a_global_shuffle_continues_where_the_streams_of_its_beginning_are_set(options, num_workers):
    loader = DataLoader(
        Recorded(10), batch_size=3, collate_fn=default_data_collator, num_workers=num_workers, **options
    )
    torch.manual_seed(5)
    whole = values(loader)
    after_whole = torch.get_rng_state()
    for position in range(1, 5):
        torch.manual_seed(5)
        batches = iterate_from(loader, position)
        assert torch.equal(torch.get_rng_state(), after_whole)  # nothing is drawn any more once it has returned
        torch.manual_seed(99)
        assert values(batches) == whole[position:]
    torch.manual_seed(6)
    assert values(iterate_from(loader, 1)) != whole[1:]


# What knows the position


class _Placed(IterableDataset):
    """A stream that carries its position, where `is_complete`; else it tells it and can't be put there."""

    def __init__(self, *, is_complete=True):
        if is_complete:
            self.load_state_dict = lambda state: None

    def __iter__(self):
        return iter(range(8))

    def state_dict(self):
        return {}


class _PlacedTable(Recorded):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class _PlacedBatches:
    """No loader of torch's, and carries its position."""

    def __iter__(self):
        return iter([1, 2])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def _hugging_face(*, shards=4):
    return datasets.Dataset.from_dict({"x": list(range(8))}).to_iterable_dataset(num_shards=shards)


def _shuffled():
    return _hugging_face().shuffle(seed=0, buffer_size=4)


def test_a_loader_with_state_is_its_own_carrier():
    for loader in (
        StatefulDataLoader(Recorded(8)),
        StatefulDataLoader(_Placed(), num_workers=2),
        StatefulDataLoader(_hugging_face(), num_workers=2),
        _PlacedBatches(),
    ):
        assert carrier_of(loader) is loader
        assert not is_read_past(loader)


def test_a_stream_with_state_carries_what_is_read_in_this_process():
    for dataset in (_Placed(), _hugging_face()):
        loader = DataLoader(dataset)
        assert carrier_of(loader) is dataset
        assert not is_read_past(loader)
        assert carrier_of(DataLoader(dataset, num_workers=2)) is None
        assert is_read_past(DataLoader(dataset, num_workers=2))


def test_map_style_data_are_placed_by_their_indices_whatever_state_they_have():
    for loader in (DataLoader(Recorded(8)), DataLoader(_PlacedTable(8)), DataLoader(Recorded(8), num_workers=2)):
        assert carrier_of(loader) is None
        assert not is_read_past(loader)


@pytest.mark.parametrize("loader", [DataLoader(Stream(8)), DataLoader(_Placed(is_complete=False)), [1, 2], iter([])])
def test_what_carries_no_whole_state_is_read_past(loader):
    assert carrier_of(loader) is None
    assert is_read_past(loader)


UNBUFFERED = {
    "plain": _hugging_face,
    "mapped": lambda: _hugging_face().map(lambda row: row),
    "filtered": lambda: _hugging_face().filter(lambda row: True),
    "of torch": lambda: _hugging_face().with_format("torch"),
    "taken": lambda: _hugging_face().take(5),
    "skipped": lambda: _hugging_face().skip(5),
    "batched": lambda: _hugging_face().batch(2),
    "interleaved": lambda: datasets.interleave_datasets([_hugging_face(), _hugging_face()]),
    "concatenated": lambda: datasets.concatenate_datasets([_hugging_face(), _hugging_face()]),
}
BUFFERED = {
    "shuffled": _shuffled,
    "mapped": lambda: _shuffled().map(lambda row: row),
    "filtered": lambda: _shuffled().filter(lambda row: True),
    "of torch": lambda: _shuffled().with_format("torch"),
    "taken": lambda: _shuffled().take(5),
    "skipped": lambda: _shuffled().skip(5),
    "batched": lambda: _shuffled().batch(2),
    "renamed": lambda: _shuffled().rename_column("x", "y"),
    "in order again": lambda: _shuffled().map(lambda row: row).filter(lambda row: True).take(7).with_format("torch"),
    "interleaved": lambda: datasets.interleave_datasets([_hugging_face(), _shuffled()]),
    "interleaved at random": lambda: datasets.interleave_datasets(
        [_hugging_face(), _shuffled().map(lambda row: row)], probabilities=[0.5, 0.5], seed=0
    ),
    "concatenated": lambda: datasets.concatenate_datasets([_hugging_face(), _hugging_face(), _shuffled()]),
    "beside": lambda: datasets.concatenate_datasets(
        [_hugging_face(shards=1), _hugging_face(shards=1).shuffle(seed=0, buffer_size=4).rename_column("x", "y")],
        axis=1,
    ),
    "split among nodes": lambda: split_dataset_by_node(_shuffled(), rank=0, world_size=2),
}


@pytest.mark.parametrize("kind", UNBUFFERED)
def test_a_stream_of_datasets_in_order_carries_its_place(kind):
    dataset = UNBUFFERED[kind]()
    assert carrier_of(DataLoader(dataset)) is dataset


@pytest.mark.parametrize("kind", BUFFERED)
def test_a_stream_of_datasets_that_is_shuffled_through_a_buffer_anywhere_carries_none(kind):
    dataset = BUFFERED[kind]()
    for loader in (DataLoader(dataset), StatefulDataLoader(dataset), train_loader(dataset, dataloader_num_workers=1)):
        assert carrier_of(loader) is None
        assert is_read_past(loader)
        assert why_read_past(loader).startswith("the state of a Hugging Face stream forgets")


@pytest.mark.parametrize("kind", UNBUFFERED)
def test_the_place_of_a_stream_of_datasets_is_exact(kind):
    """What is taken for exact has to be: a new version of `datasets` may forget more."""
    whole = list(DataLoader(UNBUFFERED[kind](), batch_size=None))
    for position in range(1, len(whole)):
        dataset = UNBUFFERED[kind]()
        examples = iter(DataLoader(dataset, batch_size=None))
        for _ in range(position):
            next(examples)
        again = UNBUFFERED[kind]()
        again.load_state_dict(dataset.state_dict())
        assert list(DataLoader(again, batch_size=None)) == whole[position:], position


def test_why_data_are_read_past_is_said_in_a_sentence():
    buffered = "the state of a Hugging Face stream forgets what is in its shuffle buffer"
    in_workers = 'the dataset\'s state is in worker processes; pip install "loopwright[streaming]" gets it from there'
    nothing = "it has no state_dict and load_state_dict, which would make this needless"
    assert "some examples come twice and some not at all" in why_read_past(DataLoader(_hugging_face().shuffle()))
    assert why_read_past(DataLoader(_shuffled())) == buffered
    assert why_read_past(DataLoader(_shuffled(), num_workers=2)) == buffered
    assert why_read_past(DataLoader(_hugging_face(), num_workers=2)) == in_workers
    assert why_read_past(DataLoader(_Placed(), num_workers=1)) == in_workers
    assert why_read_past(DataLoader(Stream(8))) == nothing
    assert why_read_past([1, 2]) == nothing
