"""A feed that was saved and built anew gives the rest of its epoch, and every epoch after, exactly."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import time

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from loopwright.checkpoint.plain_files import load_plain, numpy_arrays_allowed, save_plain
from loopwright.data.collate import default_data_collator
from loopwright.errors import CheckpointError, DataError
from loopwright.loop.feed import Feed
from loopwright.runtime.randomness import capture_randomness, restore_randomness
from tests.data.loading import train_loader

# Of torchdata 0.11 under torch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

COUNT = 22  # examples: 11 batches of 2
FIRST, SECOND = 1, 2  # epochs; not 0, which nothing has to be put back for


def example(index):
    return {"x": torch.tensor([index + random.random(), np.random.rand(), torch.rand(()).item()])}


class Images(Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return example(index)


class Stream(IterableDataset):
    """Shuffles through a buffer by torch's global stream."""

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        buffer = []
        for index in range(first, COUNT, step):
            buffer.append(index)
            if len(buffer) == 5:
                yield example(buffer.pop(int(torch.randint(5, ()))))
        yield from map(example, buffer)


class PlacedStream(IterableDataset):
    """Carries its position."""

    def __init__(self):
        self.position = 0
        self.num_read = 0

    def __iter__(self):
        while self.position < COUNT:
            self.position += 1
            self.num_read += 1
            yield example(self.position - 1)
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Batches:
    """No loader at all: an iterable of batches."""

    def __iter__(self):
        return (default_data_collator([example(index), example(index + 1)]) for index in range(0, COUNT, 2))


def hugging_face(*, shuffles=False):
    stream = datasets.Dataset.from_dict({"index": list(range(COUNT))}).to_iterable_dataset(num_shards=2)
    if shuffles:
        stream = stream.shuffle(seed=1, buffer_size=6)
    return stream.map(lambda row: {"x": example(row["index"])["x"].numpy()}, remove_columns=["index"]).with_format(
        "torch"
    )


def first_of_two(num_workers, kind=DataLoader, dataset=Images, **options):
    return kind(dataset(), batch_size=2, collate_fn=default_data_collator, num_workers=num_workers, **options)


def own_generator(num_workers):
    return first_of_two(num_workers, sampler=RandomSampler(range(COUNT), generator=torch.Generator().manual_seed(9)))


def batches_given(num_workers):
    batches = [[3, 4, 5], [0], [7, 6], [1, 2], [8, 9, 10], [11, 21], [12], [20, 13], [14]]
    return DataLoader(Images(), batch_sampler=batches, collate_fn=default_data_collator, num_workers=num_workers)


def without_batches(num_workers):
    return DataLoader(Images(), batch_size=None, sampler=RandomSampler(range(COUNT)), num_workers=num_workers)


KINDS = {
    "ours": lambda n: train_loader(Images(), batch_size=2, dataloader_num_workers=n),
    "global shuffle": lambda n: first_of_two(n, shuffle=True),
    "own generator": own_generator,
    "loader's generator": lambda n: first_of_two(n, shuffle=True, generator=torch.Generator().manual_seed(4)),
    "batches given": batches_given,
    "no batches": without_batches,
    "stream": lambda n: first_of_two(n, dataset=Stream),
    "our stream": lambda n: train_loader(Stream(), batch_size=2, dataloader_num_workers=n),
    "hugging face": lambda n: train_loader(hugging_face(), batch_size=2, dataloader_num_workers=n),
    "hugging face, shuffled": lambda n: train_loader(
        hugging_face(shuffles=True), batch_size=2, dataloader_num_workers=n
    ),
    "stateful loader": lambda n: first_of_two(n, StatefulDataLoader, shuffle=True),
}
ALONE = {
    "stream with state": lambda n: first_of_two(n, dataset=PlacedStream),
    "stateful loader of a stream": lambda n: first_of_two(n, StatefulDataLoader, PlacedStream),
    "iterable": lambda n: Batches(),
}
SHARED = {
    "ours, persistent": lambda n: train_loader(
        Images(), batch_size=2, dataloader_num_workers=n, dataloader_persistent_workers=True
    ),
    "global shuffle, persistent": lambda n: first_of_two(n, shuffle=True, persistent_workers=True),
}
CASES = [
    *((kind, 0) for kind in KINDS | ALONE),
    *((kind, 2) for kind in KINDS | SHARED),
]
# Starting workers takes time; these have every way of going on.
FEWER_CASES = [
    *((kind, 0) for kind in KINDS | ALONE),
    *((kind, 2) for kind in ("hugging face", "stateful loader", "our stream", "global shuffle, persistent")),
]


def make_feed(kind, num_workers, **options):
    return Feed((KINDS | ALONE | SHARED)[kind](num_workers), seed=5, **options)


def plain(batches):
    return [batch["x"].tolist() for batch in batches]


def rest_of(feed):
    """Train on what is left of the epoch, dropout drawing beside it; return batches and draws."""
    found = []
    for batch in feed:
        found.append((batch["x"].tolist(), torch.rand(()).item(), random.random()))
    return found


def hand_out(feed, num_batches):
    feed.begin_group()
    return [next(feed) for _ in range(num_batches)]


def use(feed, num_batches):
    for _ in range(num_batches):
        feed.used += 1
        torch.rand(()), random.random()


def through_a_file(feed, directory, used):
    """Save a feed as a checkpoint does, and read it back."""
    saved = {"used": used, "data": feed.state(), "randomness": capture_randomness()}
    file = directory / f"{len(list(directory.iterdir()))}.pt"
    save_plain(saved, file, arrays=True)
    with numpy_arrays_allowed():
        return load_plain(file)


def go_on(kind, num_workers, saved, epoch=FIRST, **options):
    """Build a feed in what could be another process, and put it where the saved one was."""
    seed_all(77)
    feed = make_feed(kind, num_workers, **options)
    feed.begin(epoch, saved["used"], saved["data"])
    restore_randomness(saved["randomness"])
    return feed


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def begun(kind, num_workers):
    """Return a feed that has gone through an epoch and begun the next."""
    seed_all(1)
    feed = make_feed(kind, num_workers)
    feed.begin(0)
    rest_of(feed)
    feed.begin(FIRST)
    return feed


@pytest.mark.parametrize(("handed_out", "used"), [(3, 1), (4, 4)])
@pytest.mark.parametrize(("kind", "num_workers"), CASES)
def test_a_feed_goes_on_exactly_where_it_was_saved(kind, num_workers, handed_out, used, tmp_path):
    feed = begun(kind, num_workers)
    hand_out(feed, 2)
    use(feed, 2)
    batches = hand_out(feed, handed_out)
    use(feed, used)
    saved = through_a_file(feed, tmp_path, 2 + used)
    pending = plain(batches[used:])
    expected = [(rest := rest_of(feed)), *(feed.begin(SECOND) or [rest_of(feed)])]
    feed.close()

    again = go_on(kind, num_workers, saved)
    given = hand_out(again, len(pending))
    assert plain(given) == pending
    rest = rest_of(again)
    again.begin(SECOND)
    assert [rest, rest_of(again)] == expected
    assert len(pending) + len(rest) + 2 + used == len(expected[1])
    again.close()


@pytest.mark.parametrize(("kind", "num_workers"), FEWER_CASES)
def test_a_feed_that_is_saved_again_before_it_gave_anything_is_where_it_was(kind, num_workers, tmp_path):
    feed = begun(kind, num_workers)
    batches = hand_out(feed, 4)
    use(feed, 2)
    saved = through_a_file(feed, tmp_path, 2)
    expected = plain(batches[2:]), rest_of(feed)
    feed.close()
    for _ in range(2):
        feed = go_on(kind, num_workers, saved)
        saved = through_a_file(feed, tmp_path, 2)
        feed.close()
    feed = go_on(kind, num_workers, saved)
    assert (plain(hand_out(feed, 2)), rest_of(feed)) == expected
    feed.close()


@pytest.mark.parametrize(("kind", "num_workers"), FEWER_CASES)
def test_a_feed_that_went_on_is_saved_once_more_further_on(kind, num_workers, tmp_path):
    feed = begun(kind, num_workers)
    hand_out(feed, 3)
    use(feed, 2)
    saved = through_a_file(feed, tmp_path, 2)
    hand_out(feed, 3)
    use(feed, 3)
    expected = rest_of(feed)
    feed.close()

    second = go_on(kind, num_workers, saved)
    hand_out(second, 1)  # what was pending, and not used before
    batches = hand_out(second, 3)
    use(second, 3)
    assert len(batches) == 3
    later = through_a_file(second, tmp_path, 6)
    second.close()
    third = go_on(kind, num_workers, later)
    assert rest_of(third) == expected
    third.close()


@pytest.mark.parametrize(("kind", "num_workers"), FEWER_CASES)
def test_at_the_end_of_an_epoch_the_next_one_follows(kind, num_workers, tmp_path):
    feed = begun(kind, num_workers)
    feed.begin_group()
    used = len(rest_of(feed))
    use(feed, used)
    before_end = through_a_file(feed, tmp_path, used)
    feed.end()
    after_end = through_a_file(feed, tmp_path, used)
    feed.begin(SECOND)
    expected = rest_of(feed)
    feed.close()

    again = go_on(kind, num_workers, before_end)
    assert rest_of(again) == []
    again.begin(SECOND)
    assert rest_of(again) == expected
    again.close()

    seed_all(78)
    again = make_feed(kind, num_workers)
    if after_end["data"] is not None:
        again.restore_generators(after_end["data"]["generators"])
    restore_randomness(after_end["randomness"])
    again.begin(SECOND)
    assert rest_of(again) == expected
    again.close()


@pytest.mark.parametrize(
    ("kind", "num_workers"),
    [
        ("stream with state", 0),
        ("stateful loader of a stream", 0),
        ("stateful loader", 1),
        ("hugging face", 1),
        ("global shuffle", 0),
    ],
)
def test_a_feed_saved_in_the_last_group_of_an_epoch_does_not_begin_the_epoch_again(kind, num_workers, tmp_path):
    feed = begun(kind, num_workers)
    hand_out(feed, 9)
    use(feed, 9)
    feed.begin_group()
    group = list(feed)  # asked for more than there were, as accumulation does where it doesn't divide the epoch
    assert len(group) == 2
    use(feed, 1)
    saved = through_a_file(feed, tmp_path, 10)
    last = plain(group[1:])
    torch.rand(())
    feed.begin(SECOND)
    expected = rest_of(feed)
    feed.close()
    for _ in range(2):
        children_before = children()
        feed = go_on(kind, num_workers, saved)
        saved = through_a_file(feed, tmp_path, 10)
        assert children() == children_before  # no worker is started to be asked where it is
        given = plain(feed)
        torch.rand(())
        assert given == last
        feed.begin(SECOND)
        assert rest_of(feed) == expected
        feed.close()


def test_nothing_is_saved_where_the_number_of_used_batches_says_it_all():
    feed = make_feed("ours", 0)
    feed.begin(0)
    hand_out(feed, 2)
    assert feed.state() is not None
    use(feed, 2)
    assert feed.state() is None
    other = make_feed("global shuffle", 0)
    other.begin(0)
    assert other.state()["pending"] == []


def test_a_stream_with_state_is_not_read_past(tmp_path):
    feed = begun("stream with state", 0)
    hand_out(feed, 6)
    use(feed, 6)
    saved = through_a_file(feed, tmp_path, 6)
    again = go_on("stream with state", 0, saved)
    assert again.given.dataset.num_read == 0
    rest_of(again)
    assert again.given.dataset.num_read == COUNT - 12


# What can't be saved


class Odd(Images):
    """Gives what no file can hold without a pickle."""

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)]), "odd": frozenset({index})}


def with_odd(examples):
    return {"x": torch.stack([one["x"] for one in examples]), "odd": [one["odd"] for one in examples]}


def test_batches_that_cannot_be_saved_are_left_out_and_read_again(tmp_path):
    def make():
        return Feed(DataLoader(Odd(), batch_size=2, shuffle=True, collate_fn=with_odd), seed=5)

    feed = make()
    feed.begin(0)
    assert feed.can_save_pending()
    batches = hand_out(feed, 4)
    assert not feed.can_save_pending()
    use(feed, 1)
    saved = through_a_file(feed, tmp_path, 1)
    assert "pending" not in saved["data"]
    expected = plain(batches[1:]) + plain(feed)
    use(feed, 3)
    seed_all(3)
    again = make()
    again.begin(0, 1, saved["data"])
    assert plain(again) == expected


def test_batches_that_were_used_need_not_be_saved():
    feed = Feed(DataLoader(Odd(), batch_size=2, collate_fn=with_odd), seed=5)
    feed.begin(0)
    hand_out(feed, 2)
    use(feed, 2)
    assert feed.can_save_pending()
    assert feed.state()["pending"] == []


class OddlyPlaced(PlacedStream):
    def state_dict(self):
        return {"position": self.position, "lock": object()}


def test_a_state_of_the_data_that_is_not_plain_is_read_past_and_said(tmp_path, caplog):
    def make():
        return Feed(first_of_two(0, dataset=OddlyPlaced), seed=5)

    seed_all(1)
    feed = make()
    feed.begin(0)
    hand_out(feed, 4)
    use(feed, 3)
    saved = through_a_file(feed, tmp_path, 3)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == "the data's own state is not saved, so a resume reads past it: a object is no plain value"
    assert saved["data"]["carried"] is None
    expected = plain(feed._taken[3:]) + plain(feed)
    again = make()
    again.begin(0, 3, saved["data"])
    restore_randomness(saved["randomness"])
    assert plain(again) == expected
    assert again.given.dataset.num_read == COUNT


def test_a_state_that_fits_no_more_is_an_error_that_says_what_to_do(tmp_path):
    feed = Feed(first_of_two(2, StatefulDataLoader), seed=5)
    feed.begin(0)
    hand_out(feed, 3)
    use(feed, 3)
    saved = through_a_file(feed, tmp_path, 3)
    feed.close()
    again = Feed(first_of_two(1, StatefulDataLoader), seed=5)
    with pytest.raises(CheckpointError, match=r"another number of workers .*; ignore_data_skip=True begins"):
        again.begin(0, 3, saved["data"])
    again.close()


@pytest.mark.parametrize(
    "change",
    [
        {"generators": None},
        {"generators": 3},
        {"generators": [3]},
        {"began": None},
        {"began": {}},
        {"began": {"randomness": 3, "generators": []}},
        {"began": {"randomness": {}, "generators": 3}},
        {"pending": 3},
        {"pending": None},
    ],
    ids=str,
)
def test_a_state_of_another_form_is_told_from_a_feeds(change, tmp_path):
    feed = make_feed("own generator", 0)
    between = through_a_file(feed, tmp_path, 0)["data"]
    feed.begin(0)
    hand_out(feed, 2)
    within = through_a_file(feed, tmp_path, 0)["data"]
    assert Feed.could_begin_with(between)
    assert Feed.could_begin_with(within)
    assert not Feed.could_begin_with(within | change)


# Reading past


@pytest.mark.parametrize(
    ("kind", "num_workers", "reason"),
    [
        ("stream", 0, "it has no state_dict and load_state_dict, which would make this needless"),
        ("stream", 2, "it has no state_dict and load_state_dict, which would make this needless"),
        ("iterable", 0, "it has no state_dict and load_state_dict, which would make this needless"),
        ("hugging face, shuffled", 0, "the state of a Hugging Face stream forgets what is in its shuffle buffer"),
    ],
)
def test_reading_past_is_said_once_with_the_reason(kind, num_workers, reason, tmp_path, caplog):
    feed = begun(kind, num_workers)
    hand_out(feed, 4)
    use(feed, 3)
    saved = through_a_file(feed, tmp_path, 3)
    feed.close()
    assert caplog.records == []
    checks = []
    again = go_on(kind, num_workers, saved, check=lambda: checks.append(time.monotonic()))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"reading past the 4 batches that were trained on already: {reason}"]
    assert len(checks) == 4
    again.close()


@pytest.mark.parametrize("kind", ["ours", "global shuffle", "stateful loader", "stream with state", "hugging face"])
def test_nothing_is_said_where_nothing_is_read_past(kind, tmp_path, caplog):
    feed = begun(kind, 0)
    hand_out(feed, 4)
    use(feed, 3)
    go_on(kind, 0, through_a_file(feed, tmp_path, 3))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("kind", ["ours", "global shuffle", "stream", "iterable", "hugging face"])
def test_going_on_beyond_the_data_is_an_error(kind):
    feed = make_feed(kind, 0)
    with pytest.raises(DataError, match="can't continue after batch 40 of the epoch: the data has only 11"):
        feed.begin(0, 40)


@pytest.mark.parametrize("kind", ["stream", "iterable", "our stream"])
def test_reading_past_leaves_the_stream_that_dropout_draws_from_alone(kind):
    streams = []
    for used in (0, 5):
        feed = make_feed(kind, 0)
        seed_all(4)
        feed.begin(3, used)  # torch draws a seed for workers, without any too
        streams.append(torch.get_rng_state())
        next(feed)
        streams.append(torch.get_rng_state())
    assert all(torch.equal(stream, streams[0]) for stream in streams)


# Workers


@pytest.mark.parametrize("used", [0, 2])
def test_persistent_workers_that_begin_in_a_later_epoch_draw_nothing_from_the_global_stream(used):
    feed = Feed(first_of_two(1, persistent_workers=True), seed=5)
    seed_all(4)
    before = torch.get_rng_state()
    feed.begin(3, used)
    assert torch.equal(torch.get_rng_state(), before)
    assert feed.loader.generator is None
    rest_of(feed)
    before = torch.get_rng_state()
    feed.begin(4)
    assert torch.equal(torch.get_rng_state(), before)
    feed.close()
    feed = Feed(first_of_two(1, persistent_workers=True), seed=5)
    feed.begin(0)
    assert not torch.equal(torch.get_rng_state(), before)  # in the first epoch torch draws, and so do we
    feed.close()


def children():
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize(("kind", "num_workers"), [case for case in FEWER_CASES if case[1]])
def test_a_closed_feed_leaves_no_process_behind(kind, num_workers):
    before = children()
    feed = make_feed(kind, num_workers)
    feed.begin(0)
    hand_out(feed, 2)
    assert len(children() - before) == 2
    feed.close()
    assert children() <= before
    assert list(feed) == []


def test_workers_end_with_their_epoch_unless_they_persist():
    before = children()
    passing, persistent = make_feed("ours", 2), make_feed("ours, persistent", 2)
    passing.begin(0)
    hand_out(passing, 1)
    passing.end()
    assert children() <= before
    persistent.begin(0)
    hand_out(persistent, 1)
    workers = children() - before
    persistent.end()
    persistent.begin(1)
    assert children() - before == workers
    assert len(workers) == 2
    persistent.close()


class SlowImages(Images):
    def __getitem__(self, index):
        time.sleep(0.5 if index == 0 else 0)
        return example(index)


class Stop(BaseException):
    pass


def test_waiting_for_a_worker_can_be_given_up_and_the_place_be_saved(tmp_path):
    def make(check):
        return Feed(first_of_two(1, dataset=SlowImages), seed=5, check=check)

    looks = []

    def check():
        looks.append(os.getpid())
        if len(looks) == 2:
            raise Stop

    seed_all(1)
    feed = make(check)
    feed.begin(0)
    with pytest.raises(Stop):
        next(feed)
    saved = through_a_file(feed, tmp_path, 0)
    expected = rest_of(feed)
    assert len(expected) == 11
    feed.close()
    again = make(lambda: None)
    again.begin(0, 0, saved["data"])
    restore_randomness(saved["randomness"])
    assert rest_of(again) == expected
    again.close()
