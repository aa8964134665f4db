"""Streams of Hugging Face `datasets` remember where they were put, also before their first example."""

from __future__ import annotations

import pickle

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from loopwright.data.streams import RememberingStream, forgets_its_buffer, is_hugging_face


def hugging_face(*, shards=1):
    return datasets.Dataset.from_dict({"x": list(range(12))}).to_iterable_dataset(num_shards=shards)


def read(batches, num_examples):
    return [next(batches)["x"] for _ in range(num_examples)]


def rest(stream):
    return [example["x"] for example in stream]


def state_after(num_examples):
    stream = RememberingStream(hugging_face())
    examples = iter(stream)
    read(examples, num_examples)
    return stream.state_dict()


def test_datasets_itself_still_forgets_where_it_was_put():
    """Where this fails, `datasets` has mended its streams, and `RememberingStream` can go."""
    state = state_after(5)
    stream = hugging_face()
    beginning = stream.state_dict()
    stream.load_state_dict(state)
    iter(stream)
    assert stream.state_dict() == beginning != state


@pytest.mark.parametrize("asks_for_iterator", [False, True])
def test_a_stream_that_was_put_to_a_place_says_so_before_its_first_example(asks_for_iterator):
    state = state_after(5)
    for _ in range(3):  # as often as it is put there and saved again, nothing being read
        stream = RememberingStream(hugging_face())
        stream.load_state_dict(state)
        if asks_for_iterator:
            iter(stream)
        state = pickle.loads(pickle.dumps(stream.state_dict()))
    assert state == state_after(5)
    assert rest(stream) == list(range(5, 12))


@pytest.mark.parametrize("position", [0, 1, 5, 11, 12])
def test_a_stream_goes_on_from_wherever_it_says_it_is(position):
    stream = RememberingStream(hugging_face())
    stream.load_state_dict(state_after(position))
    examples = iter(stream)
    for taken in range(position, 12):
        assert next(examples)["x"] == taken
        assert stream.state_dict() == state_after(taken + 1)
        again = RememberingStream(hugging_face())
        again.load_state_dict(stream.state_dict())
        assert rest(again) == list(range(taken + 1, 12))
    assert list(examples) == []


@pytest.mark.parametrize("is_placed", [False, True])
def test_a_stream_can_be_sent_to_another_process(is_placed):
    stream = RememberingStream(hugging_face())
    if is_placed:
        stream.load_state_dict(state_after(5))
    arrived = pickle.loads(pickle.dumps(stream))
    assert arrived.state_dict() == stream.state_dict()
    assert rest(arrived) == list(range(5 if is_placed else 0, 12))


@pytest.mark.parametrize(("context", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_workers_share_the_shards_of_a_stream_as_without_us(context, num_workers):
    options = {"batch_size": 3, "num_workers": num_workers, "multiprocessing_context": context, "collate_fn": list}
    batches = list(DataLoader(RememberingStream(hugging_face(shards=2)), **options))
    expected = [[0, 1, 2], [6, 7, 8], [3, 4, 5], [9, 10, 11]]
    assert [rest(batch) for batch in batches] == (expected if num_workers == 2 else sorted(expected))


class Measured(IterableDataset):
    """A stream with a length, an epoch and a method of its own."""

    def __init__(self):
        self.epochs = []

    def __iter__(self):
        return iter([{"x": 1}, {"x": 2}])

    def __len__(self):
        return 2

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def shout(self):
        return "loud"


def test_a_stream_keeps_its_length_methods_and_attributes():
    measured = Measured()
    stream = RememberingStream(measured)
    assert len(stream) == 2
    stream.set_epoch(3)
    assert measured.epochs == stream.epochs == [3]
    assert stream.shout() == "loud"
    with pytest.raises(AttributeError, match="whisper"):
        _ = stream.whisper


def test_a_stream_without_a_length_has_none_either_when_it_remembers():
    with pytest.raises(TypeError):
        len(RememberingStream(hugging_face()))


def test_a_new_epoch_reaches_the_order_of_the_stream():
    orders = []
    for epoch in (0, 1, 0):
        stream = RememberingStream(hugging_face(shards=12).shuffle(seed=1, buffer_size=1))
        stream.set_epoch(epoch)
        orders.append(rest(stream))
    assert orders[0] == orders[2] != orders[1]


class _Table(Dataset):
    def __len__(self):
        return 1


def test_streams_of_datasets_are_told_from_others():
    table = datasets.Dataset.from_dict({"x": [1]})
    assert [is_hugging_face(one) for one in (hugging_face(), hugging_face().take(2), table, Measured(), None)] == [
        *(True, True),
        *(False, False, False),
    ]
    assert not any(map(forgets_its_buffer, (hugging_face(), table, Measured(), _Table(), None, torch.zeros(1))))
    assert forgets_its_buffer(RememberingStream(hugging_face().shuffle(seed=0, buffer_size=3)))
