"""While a training waits for worker processes it looks up, and may stop there without losing a batch."""

from __future__ import annotations

import gc
import os
import time
import weakref

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from loopwright.data.waiting import poll_while_waiting

# Of torchdata 0.11 under torch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

LOADERS = [DataLoader, StatefulDataLoader]
SLOW = 0.7


class Slow(Dataset):
    """Takes its time over some examples; `ends_at` is one whose worker dies."""

    def __init__(self, slow=(), ends_at=None, seconds=SLOW):
        self.slow, self.ends_at, self.seconds = slow, ends_at, seconds

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index in self.slow:
            time.sleep(self.seconds)
        if index == self.ends_at:
            os._exit(3)
        return index


class SlowStream(IterableDataset):
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        for index in range(info.id, 8, info.num_workers):
            if index == 2:
                time.sleep(SLOW)
            yield index


class Stop(BaseException):
    """As the loop's own: not an Exception."""


class Looks:
    """Counts how often it is called, and stops when it is told to."""

    def __init__(self, stops_at=()):
        self.times = []
        self.stops_at = stops_at

    def __call__(self):
        self.times.append(time.monotonic())
        if len(self.times) in self.stops_at:
            raise Stop


def taken(batches):
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_slow_worker_is_waited_for_with_open_eyes(kind):
    batches = iter(kind(Slow(slow=[0]), batch_size=2, num_workers=1))
    looks = Looks()
    poll_while_waiting(batches, looks)
    began = time.monotonic()
    assert next(batches).tolist() == [0, 1]
    assert time.monotonic() - began > 0.8 * SLOW
    assert len(looks.times) >= 3  # 7 in fact; a busy machine gets to it less often
    assert taken(batches) == [[2, 3], [4, 5], [6, 7]]


def test_a_batch_that_is_there_already_is_looked_up_for_too():
    batches = iter(DataLoader(Slow(), batch_size=2, num_workers=1))
    looks = Looks(stops_at={1})
    poll_while_waiting(batches, looks)
    time.sleep(0.3)
    with pytest.raises(Stop):
        next(batches)
    assert taken(batches) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert len(looks.times) >= 5


@pytest.mark.parametrize("timeout", [0, 30])
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", LOADERS)
def test_whoever_looks_may_stop_there_and_no_batch_is_lost_or_doubled(kind, num_workers, timeout):
    batches = iter(kind(Slow(slow=[2]), batch_size=1, num_workers=num_workers, timeout=timeout))
    poll_while_waiting(batches, Looks(stops_at={1, 4, 5, 7}))
    found, stops = [], 0
    while len(found) < 8:
        try:
            found.append(next(batches).item())
        except Stop:
            stops += 1
    assert (found, stops) == (list(range(8)), 4)
    assert list(batches) == []


@pytest.mark.parametrize("kind", LOADERS)
def test_a_stream_can_be_stopped_at_and_gone_on_with_too(kind):
    batches = iter(kind(SlowStream(), batch_size=2, num_workers=2))
    poll_while_waiting(batches, Looks(stops_at={1, 3, 4}))
    found, stops = [], 0
    while len(found) < 4:
        try:
            found.append(next(batches).tolist())
        except Stop:
            stops += 1
    assert stops == 3
    assert found == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_the_state_of_a_loader_that_was_stopped_at_is_the_place_between_two_batches():
    loader = StatefulDataLoader(Slow(slow=[4]), batch_size=2, num_workers=1)
    batches = iter(loader)
    poll_while_waiting(batches, Looks(stops_at={4}))
    given = []
    with pytest.raises(Stop):
        given.extend(batch.tolist() for batch in batches)
    last = given[-1]
    again = StatefulDataLoader(Slow(), batch_size=2, num_workers=1)
    again.load_state_dict(loader.state_dict())
    assert taken(again) == [[first, first + 1] for first in range(last[1] + 1, 8, 2)]
    assert 0 < last[1] < 7


@pytest.mark.parametrize("kind", LOADERS)
def test_a_timeout_that_was_set_still_ends_the_waiting_in_its_time(kind):
    batches = iter(kind(Slow(slow=[0], seconds=1.5), batch_size=2, num_workers=1, timeout=0.4))
    looks = Looks()
    poll_while_waiting(batches, looks)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"timed out after 0\.4 seconds"):
        next(batches)
    assert time.monotonic() - began > 0.3
    assert len(looks.times) >= 3


def test_a_slow_worker_within_the_timeout_raises_nothing():
    batches = iter(DataLoader(Slow(slow=[0]), batch_size=2, num_workers=1, timeout=20))
    poll_while_waiting(batches, Looks())
    assert taken(batches) == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_worker_that_died_is_still_reported(kind):
    # By then it has handed the first batch over: one that dies over that leaves another error.
    batches = iter(kind(Slow(slow=[2], ends_at=2), batch_size=2, num_workers=1))
    poll_while_waiting(batches, Looks())
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        taken(batches)


@pytest.mark.parametrize("kind", LOADERS)
def test_what_loads_in_this_process_is_left_as_it_is(kind):
    batches = iter(kind(Slow(), batch_size=4, num_workers=0))
    before = dict(vars(batches))
    looks = Looks()
    poll_while_waiting(batches, looks)
    assert vars(batches) == before
    assert taken(batches) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    poll_while_waiting(iter([1, 2]), looks)
    poll_while_waiting((number for number in (1, 2)), looks)
    assert looks.times == []


def test_the_newest_check_replaces_the_one_before_with_persistent_workers():
    loader = DataLoader(Slow(), batch_size=4, num_workers=1, persistent_workers=True)
    looks = [Looks(), Looks()]
    for look in looks:
        batches = iter(loader)
        poll_while_waiting(batches, look)
        assert len(taken(batches)) == 2
    counts = [len(look.times) for look in looks]
    assert min(counts) >= 2
    assert looks[1].times[0] > looks[0].times[-1]


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("is_read", [False, True])
def test_an_iterator_ends_with_its_last_name_without_the_garbage_collector(kind, is_read):
    batches = iter(kind(Slow(), batch_size=2, num_workers=1))
    poll_while_waiting(batches, Looks())
    if is_read:
        next(batches)
    reference, workers = weakref.ref(batches), list(batches._workers)
    gc.disable()
    try:
        del batches
        assert reference() is None
        assert not any(worker.is_alive() for worker in workers)
    finally:
        gc.enable()
