"""What a worker draws at random for a batch depends on the seed, the epoch and the batch's number, and nothing else."""

from __future__ import annotations

import os
import pickle
import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from loopwright.data.numbering import Numbered, NumberedSource, batch_seed, number_batches, source_of, with_source
from loopwright.errors import DataError
from loopwright.runtime.randomness import capture_randomness, restore_randomness
from tests.data.loading import Draws

# Of torchdata 0.11 under torch 2.13; and of torch on a machine with fewer cores than workers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

SEED = 11


def _draws():
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def drawn(epoch, number, *, seed=SEED, examples=2):
    """Return what a batch's examples draw where the three streams begin with the batch's seed."""
    kept = capture_randomness(accelerators=False)
    start = batch_seed(seed, epoch, number)
    random.seed(start)
    np.random.seed(start % 2**32)
    torch.manual_seed(start)
    found = [_draws() for _ in range(examples)]
    restore_randomness(kept, accelerators=False)
    return found


def streams():
    name, keys, *place = np.random.get_state()
    return random.getstate(), name, keys.tolist(), place, torch.get_rng_state().tolist()


def only_x(examples):
    return [example["x"] for example in examples]


def draws_loader(kind=DataLoader, dataset=None, **options):
    options = {"batch_size": 2, "collate_fn": only_x, "num_workers": 1} | options
    return kind(Draws() if dataset is None else dataset, **options)


def epoch_of(loader, epoch, first=0):
    """Return the batches of an epoch from number `first` on."""
    source_of(loader).begin(epoch, first)
    return list(loader)


def test_the_seed_of_a_batch_is_that_of_checkpoints_made_long_ago():
    assert [batch_seed(0, 0, 0), batch_seed(11, 2, 3), batch_seed(2**32 - 1, 0, -1)] == [
        759540517790923586,
        5292145744673586945,
        7903536556784152010,
    ]


def test_seeds_of_batches_are_numbers_that_every_stream_takes_and_all_different():
    seeds = [batch_seed(seed, epoch, n) for seed in (0, 1, 10) for epoch in range(12) for n in range(-1, 112)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_a_batch_draws_the_same_alone_after_others_and_with_any_number_of_workers(num_workers, persistent):
    loader = number_batches(draws_loader(num_workers=num_workers, persistent_workers=persistent), SEED)
    for epoch in (0, 3):
        whole = [drawn(epoch, number) for number in range(4)]
        for first in (0, 1, 3, 0):
            assert epoch_of(loader, epoch, first) == whole[first:]


def test_spawned_workers_draw_what_forked_ones_do():
    # `list`, not a function from here: a spawned worker would import this whole file.
    options = {"multiprocessing_context": "spawn", "persistent_workers": True, "collate_fn": list}
    loader = number_batches(draws_loader(**options), SEED)
    for epoch, first in ((1, 1), (2, 0)):
        found = [only_x(examples) for examples in epoch_of(loader, epoch, first)]
        assert found == [drawn(epoch, number) for number in range(first, 4)]


def test_another_seed_epoch_or_number_draws_otherwise():
    batches = []
    for seed in (1, 2):
        loader = number_batches(draws_loader(num_workers=2, persistent_workers=True), seed)
        batches += epoch_of(loader, 0) + epoch_of(loader, 1)
    numbers = [number for batch in batches for example in batch for number in example]
    assert len(set(numbers)) == len(numbers) == 2 * 2 * 8 * 3


class _Marked(Draws):
    mark = "nobody was here"

    def __getitem__(self, index):
        return {"x": [self.mark, *super().__getitem__(index)["x"]]}


def _mark_and_seed(worker):
    get_worker_info().dataset.mark = f"worker {worker}"
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def test_a_users_worker_init_fn_runs_and_what_it_seeds_does_not_count():
    loader = number_batches(draws_loader(dataset=_Marked(), num_workers=2, worker_init_fn=_mark_and_seed), SEED)
    expected = [[[f"worker {n % 2}", *example] for example in drawn(0, n)] for n in range(4)]
    assert epoch_of(loader, 0) == expected


def test_the_streams_of_the_training_process_are_left_alone():
    loader = number_batches(draws_loader(num_workers=2, generator=torch.Generator()), SEED)
    before = streams()
    epoch_of(loader, 1, 1)
    assert pickle.loads(pickle.dumps(Numbered([4, 5], 99))) == [4, 5]
    assert streams() == before


def test_a_loader_without_batches_numbers_its_examples():
    loader = number_batches(draws_loader(batch_size=None, collate_fn=lambda example: [example["x"]]), SEED)
    assert epoch_of(loader, 0, 2) == [drawn(0, number, examples=1) for number in range(2, 8)]


@pytest.mark.parametrize("kind", ["a list", "a class of its own", "torch's"])
def test_batch_samplers_of_users_are_numbered(kind):
    class OwnBatches:
        def __iter__(self):
            return iter([[7], [0, 1, 2], [3, 4]])

        def __len__(self):
            return 3

    batches = {"a list": [[7], [0, 1, 2], [3, 4]], "a class of its own": OwnBatches()}.get(kind)
    if batches is None:
        batches = BatchSampler(SequentialSampler(range(8)), 3, drop_last=False)
    sizes = [len(batch) for batch in batches]
    loader = number_batches(DataLoader(Draws(), batch_sampler=batches, collate_fn=only_x, num_workers=2), SEED)
    assert len(loader) == 3
    for first in (0, 2):
        assert epoch_of(loader, 5, first) == [drawn(5, n, examples=sizes[n]) for n in range(first, 3)]


class _NoiseStream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        for _ in range(info.id, 8, info.num_workers):
            yield {"x": _draws()}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_of_a_stream_are_numbered(num_workers):
    loader = number_batches(draws_loader(dataset=_NoiseStream(), num_workers=num_workers), SEED)
    assert epoch_of(loader, 2) == [drawn(2, number) for number in range(4)]


Place = namedtuple("Place", ["row", "column"])


class _Indices(Dataset):
    """Gives back the indices that it was asked for, and their type."""

    def __init__(self, length=6):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return type(index).__name__, index

    def __getitems__(self, indices):
        return [(type(indices).__name__, indices)]


def _as_it_is(example):
    return example


@pytest.mark.parametrize(
    "indices", [4, [1, 2], (1, 2), Place(1, 2), slice(1, 3), {"row": 1}, "key", None, np.int64(3), range(2)], ids=repr
)
def test_indices_reach_the_dataset_as_the_sampler_gave_them(indices):
    loader = DataLoader(_Indices(), batch_size=None, sampler=[indices], collate_fn=_as_it_is, num_workers=1)
    assert epoch_of(number_batches(loader, SEED), 0) == [(type(indices).__name__, indices)]


def test_batches_of_indices_reach_getitems_as_lists_tuples_or_tensors():
    batches = [[1, 2], (3, 4), torch.tensor([5, 0])]
    loader = DataLoader(_Indices(), batch_sampler=batches, collate_fn=_as_it_is, num_workers=1)
    found = [batch[0] for batch in epoch_of(number_batches(loader, SEED), 0)]
    assert [name for name, _ in found] == ["list", "tuple", "Tensor"]
    assert [list(indices) for _, indices in found] == [[1, 2], [3, 4], [5, 0]]


class _Process(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"x": os.getpid()}


def test_persistent_workers_live_over_the_epochs_of_one_numbered_loader():
    persistent = number_batches(draws_loader(dataset=_Process(), num_workers=2, persistent_workers=True), SEED)
    epochs = [{pid for batch in epoch_of(persistent, epoch) for pid in batch} for epoch in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 2
    passing = number_batches(draws_loader(dataset=_Process(), num_workers=1), SEED)
    assert epoch_of(passing, 0)[0] != epoch_of(passing, 1)[0]


@pytest.mark.parametrize("persistent", [False, True])
def test_the_given_loader_stays_as_it_was(persistent):
    given = draws_loader(num_workers=1, persistent_workers=persistent, generator=torch.Generator())

    def own_epoch():
        given.generator.manual_seed(3)
        return list(given)

    before_numbering = own_epoch()
    attributes = dict(vars(given))
    numbered = number_batches(given, SEED)
    assert epoch_of(numbered, 0) == [drawn(0, number) for number in range(4)]
    assert vars(given).keys() == attributes.keys()
    assert all(vars(given)[name] is value for name, value in attributes.items())
    assert source_of(given) is None
    assert source_of(numbered) is not None
    assert numbered._iterator is None or numbered._iterator is not given._iterator
    # Its persistent workers go on with their own streams, so that only new workers draw the same again.
    assert (own_epoch() == before_numbering) is not persistent
    assert type(numbered) is type(given)
    assert (len(numbered), numbered.batch_size, numbered.dataset) == (4, 2, given.dataset)


def test_what_loads_in_this_process_is_taken_as_it_is():
    without_workers = draws_loader(num_workers=0)
    assert number_batches(without_workers, SEED) is without_workers
    batches = [[1], [2]]
    assert number_batches(batches, SEED) is batches
    assert source_of(batches) is None


def test_a_source_without_seed_gives_the_items_themselves():
    loader = with_source(draws_loader(num_workers=0, collate_fn=_as_it_is, dataset=_Indices()), None)
    assert epoch_of(loader, 0, 1) == [[("list", [2, 3])], [("list", [4, 5])]]


class _CountingSampler:
    def __init__(self):
        self.times_asked = self.given = 0

    def __iter__(self):
        self.times_asked += 1
        return map(self._give, range(5))

    def _give(self, index):
        self.given += 1
        return index

    def __len__(self):
        return 5


def test_a_source_steps_over_items_when_the_first_is_asked_for_or_when_told():
    sampler = _CountingSampler()
    source = NumberedSource(sampler, None)
    assert (len(source), source.was_asked) == (5, False)
    source.skip_now()  # no pass has begun
    source.begin(0, 3)
    items = iter(source)
    assert (source.was_asked, sampler.times_asked, sampler.given) == (True, 1, 0)
    source.skip_now()
    assert sampler.given == 3
    source.skip_now()
    assert list(items) == [3, 4]
    source.begin(0, 3)
    assert list(source) == [3, 4]
    source.begin(0, 3, is_placed=True)
    assert list(source) == [0, 1, 2, 3, 4]
    source.begin(1)
    assert list(source) == [0, 1, 2, 3, 4]


def test_a_source_numbers_what_it_gives_from_where_it_begins():
    source = NumberedSource("abcd", SEED)
    for options in ({}, {"is_placed": True}):
        source.begin(2, 1, **options)
        seeds = [item.seed for item in source]
        assert seeds[:3] == [batch_seed(SEED, 2, number) for number in (1, 2, 3)]
        assert len(seeds) == (4 if options else 3)


def test_a_place_beyond_the_data_is_an_error():
    source = NumberedSource("abc", SEED)
    source.begin(0, 5)
    with pytest.raises(DataError, match="can't continue after batch 5 of the epoch: the data has only 3"):
        next(iter(source))


class _Noted(Draws):
    """Says which example it is, too."""

    def __getitem__(self, index):
        return {"x": [index, *super().__getitem__(index)["x"]]}


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"batch_sampler": [[5, 1], [2, 0], [7, 6], [3, 4]]}])
def test_a_stateful_loader_takes_its_numbers_along(options):
    options = {
        "num_workers": 2,
        "collate_fn": only_x,
        **({} if "batch_sampler" in options else {"batch_size": 2}),
    } | options

    def make(state=None):
        torch.manual_seed(5)
        loader = number_batches(StatefulDataLoader(_Noted(), **options), SEED)
        source_of(loader).begin(1)
        if state is not None:
            loader.load_state_dict(state)
        return loader

    whole = list(make())
    assert [[draws for _, *draws in batch] for batch in whole] == [drawn(1, number) for number in range(4)]
    assert sorted(index for batch in whole for index, *_ in batch) == list(range(8))
    first = make()
    for taken, batch in enumerate(first, 1):
        assert batch == whole[taken - 1]
        if taken < 4:
            assert list(make(pickle.loads(pickle.dumps(first.state_dict())))) == whole[taken:], taken
