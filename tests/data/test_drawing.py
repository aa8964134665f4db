"""Batches are drawn as `next` draws them, whatever the loader, and seen by a profiler that is running."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, IterableDataset

from loopwright.data.drawing import drawer


class Numbers(IterableDataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return 5

    def __iter__(self):
        return iter(range(self.length))


def drawn(batches):
    draw, found = drawer(batches), []
    while True:
        try:
            found.append(draw())
        except StopIteration:
            return found


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(list(range(10)), 4),
        lambda: DataLoader(list(range(10)), 4, shuffle=True, drop_last=True),
        lambda: DataLoader(list(range(3)), None),
        lambda: DataLoader(list(range(10)), 4, num_workers=1),
        lambda: DataLoader(Numbers(5), 2),
        lambda: (torch.tensor([number]) for number in range(3)),
    ],
)
def test_batches_are_those_of_next_and_as_much_is_drawn_at_random(make):
    torch.manual_seed(0)
    expected = list(make())
    state = torch.get_rng_state()
    torch.manual_seed(0)
    found = drawn(iter(make()))
    assert [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in found] == [
        batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in expected
    ]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_of_ones_own_is_asked_itself():
    class Iterator(torch.utils.data.dataloader._SingleProcessDataLoaderIter):
        def __next__(self):
            return super().__next__() + 100

    assert drawn(Iterator(DataLoader(list(range(3)), None))) == [100, 101, 102]


def test_a_set_that_is_longer_than_it_says_is_warned_of():
    loader = DataLoader(Numbers(7), None)
    assert len(loader) == 5
    with pytest.warns(UserWarning, match="Length of IterableDataset"):
        drawn(iter(loader))


def test_a_profiler_sees_the_batches_that_are_drawn_while_it_runs():
    draw = drawer(iter(DataLoader(list(range(10)), 1)))
    draw()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        draw()
        draw()
    draw()
    assert sum("_SingleProcessDataLoaderIter" in event.key for event in seen.key_averages()) == 1
    assert next(event.count for event in seen.key_averages() if "_SingleProcessDataLoaderIter" in event.key) == 2


def test_torch_has_what_is_drawn_from():
    batches = iter(DataLoader([1]))
    assert drawer(batches) != batches.__next__, "torch's iterators are others: every batch takes its 40 µs again"
