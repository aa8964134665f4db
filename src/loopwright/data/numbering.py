"""Number the batches that worker processes load, so that what is drawn at random for one depends on its number alone.

A `DataLoader` seeds each worker once, when it starts: what the hundredth batch draws then depends on the ninety-nine
before it, and a run that goes on at the hundredth gets other augmentations. Here every batch brings a seed made of the
run's seed, the epoch and its own number, and the worker's Python, NumPy and torch streams are set to it before the
batch is loaded: about 8 us a batch, in the worker. A generator that a `worker_init_fn` of the user's makes for itself
is out of reach.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from loopwright.data.samplers import step_over, too_few_batches
from loopwright.data.streams import RememberingStream, has_state, is_hugging_face


class Numbered:
    """A batch's indices on their way to a worker, which unpickles them as they were and seeds itself meanwhile.

    Arguments:
        indices: What the sampler or batch sampler gave.
        seed: What the worker's random streams begin with.
    """

    __slots__ = ("indices", "seed")

    def __init__(self, indices: Any, seed: int) -> None:
        self.indices: Any = indices
        self.seed: int = seed

    # Unpickling is the one thing that a worker does with every batch before it loads the first example, whatever the
    # dataset, the collator and the way of starting processes.
    def __reduce__(self) -> tuple[Any, ...]:
        return _seeded, (self.indices, self.seed)


def _seeded(indices: Any, seed: int) -> Any:
    if torch.utils.data.get_worker_info() is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # the CPU's alone: a worker has no business on a GPU
    return indices


def batch_seed(seed: int, epoch: int, number: int) -> int:
    """Return the seed, of 63 bits, of batch `number` of epoch `epoch`."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class NumberedSource:
    """Stands in for a loader's sampler or batch sampler: begins where it is told, and numbers what it gives.

    Items that are left out are stepped over as indices, at the latest when the first of the rest is asked for; no
    example is loaded for them. Its iterators carry their state, as `StatefulDataLoader` asks of samplers.

    Arguments:
        source: The sampler or batch sampler.
        seed: Of the run; None for a loader without workers, which gets the items as they are.

    Attributes:
        was_asked: Whether anybody has iterated it.
    """

    def __init__(self, source: Any, seed: int | None) -> None:
        self.source = source
        self.seed = seed
        self.was_asked: bool = False
        self.epoch: int = 0
        self.first: int = 0
        self.to_skip: int = 0
        self._newest: _NumberedItems | None = None

    def begin(self, epoch: int, first: int = 0, *, is_placed: bool = False) -> None:
        """Let the next passes be of epoch `epoch`, from its item number `first` on.

        Arguments:
            epoch: Counted from 0.
            first: Items to leave out.
            is_placed: Whether the source itself begins there already.
        """
        self.epoch, self.first = epoch, first
        self.to_skip = 0 if is_placed else first

    def __iter__(self) -> Iterator[Any]:
        self.was_asked = True
        # The source is asked as often as it would be without us, and read as often: its random state may count that.
        self._newest = _NumberedItems(self)
        return self._newest

    def skip_now(self) -> None:
        """Step over what is to be left out at once, in the newest pass: the source may draw its order meanwhile."""
        if self._newest is not None:
            self._newest.skip()

    def __len__(self) -> int:
        return len(self.source)


class _NumberedItems:
    def __init__(self, owner: NumberedSource) -> None:
        self.owner = owner
        self.items = iter(owner.source)
        self.number = owner.first
        self.to_skip = owner.to_skip

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.to_skip:
            self.skip()
        indices = next(self.items)
        number = self.number
        self.number += 1
        seed = self.owner.seed
        return indices if seed is None else Numbered(indices, batch_seed(seed, self.owner.epoch, number))

    def skip(self) -> None:
        wanted, self.to_skip = self.to_skip, 0
        if (found := step_over(self.items, wanted)) < wanted:
            raise too_few_batches(wanted, found)

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number, "source": _state_of(self.owner.source), "items": _state_of(self.items)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number, self.to_skip = state["number"], 0
        if state["source"] is not None:
            self.owner.source.load_state_dict(state["source"])
        self.items = iter(self.owner.source)
        if state["items"] is not None:
            self.items.load_state_dict(state["items"])
        elif state["source"] is None:
            self.to_skip = self.number


def number_batches(loader: Any, seed: int) -> Any:
    """Return a copy of `loader` whose workers are seeded batch by batch; `loader` itself where it has no workers.

    The copy's persistent workers are its own, and end with it.
    """
    if not isinstance(loader, DataLoader) or loader.num_workers == 0:
        return loader
    numbered = with_source(loader, seed)
    if is_hugging_face(loader.dataset):
        vars(numbered)["dataset"] = RememberingStream(loader.dataset)
    return numbered


def with_source(loader: DataLoader[Any], seed: int | None) -> DataLoader[Any]:
    """Return a copy of `loader` that takes its indices through a `NumberedSource`."""
    name = _source_name(loader)
    numbered = copy.copy(loader)
    # Not by assignment: a DataLoader refuses new samplers, as they would come too late for its iterator.
    vars(numbered).update({name: NumberedSource(getattr(loader, name), seed), "_iterator": None})
    return numbered


def source_of(loader: Any) -> NumberedSource | None:
    """Return the `NumberedSource` in `loader`, None where it has none."""
    source = getattr(loader, _source_name(loader), None)
    return source if isinstance(source, NumberedSource) else None


def _source_name(loader: Any) -> str:
    return "sampler" if getattr(loader, "batch_sampler", None) is None else "batch_sampler"


def _state_of(thing: Any) -> Any:
    return thing.state_dict() if has_state(thing) else None
