"""What can say where it is; and what the streams of Hugging Face `datasets` forget or lose, with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

# Its state leaves out the examples in the buffer: 10 of 100 were lost at a resume.
_FORGETFUL = "BufferShuffledExamplesIterable"

_LONGEST_SEED = 64  # bits that people give as a seed; NumPy's own choice has 128

# What deals with each example by itself, or changes nothing but the order. Not among them: what counts (take, skip),
# and what stops at the end of one of several streams or begins it again (interleaving).
_WHOLE_WHEN_SPLIT = {
    "ArrowExamplesIterable",
    "BufferShuffledExamplesIterable",
    "ExamplesIterable",
    "FilteredExamplesIterable",
    "FormattedExamplesIterable",
    "InterleavedShardsExamplesIterable",
    "MappedExamplesIterable",
    "RebatchedArrowExamplesIterable",
    "RepeatExamplesIterable",
    "SelectColumnsIterable",
    "VerticallyConcatenatedMultiSourcesExamplesIterable",
}


def has_state(thing: Any) -> bool:
    """Return whether `thing`, a loader, dataset or sampler, can say where it is and be put back there."""
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def is_hugging_face(dataset: Any) -> bool:
    """Return whether `dataset` is a stream of Hugging Face `datasets`."""
    return isinstance(dataset, IterableDataset) and type(dataset).__module__.partition(".")[0] == "datasets"


def forgets_its_buffer(dataset: Any) -> bool:
    """Return whether `dataset` is a stream of Hugging Face `datasets` that is shuffled through a buffer."""
    return any(type(step).__name__ == _FORGETFUL for step in _steps_of(dataset))


def is_whole_when_split(dataset: Any) -> bool:
    """Return whether the parts of `dataset`, split file by file, have the same examples together as the whole.

    `take(5)` of two files split in two is the first three of the one and the first two of the other.
    """
    return is_hugging_face(dataset) and {type(step).__name__ for step in _steps_of(dataset)} <= _WHOLE_WHEN_SPLIT


def has_an_order_of_its_own(dataset: Any) -> bool:
    """Return whether `dataset` is a stream of Hugging Face `datasets` that is shuffled or mixed without a seed.

    NumPy then takes 128 bits from the system, other ones in each process.
    """
    seeds = [_seed_of(getattr(step, "generator", None)) for step in _steps_of(dataset)]
    return any(isinstance(seed, int) and seed.bit_length() > _LONGEST_SEED for seed in seeds)


def _seed_of(generator: Any) -> Any:
    """Return what a generator of NumPy began with; None where it doesn't say (one of a `RandomState`)."""
    return getattr(getattr(getattr(generator, "bit_generator", None), "seed_seq", None), "entropy", None)


def _steps_of(dataset: Any) -> Iterator[Any]:
    """Yield what a stream of Hugging Face `datasets` is made of, from its last step to its sources."""
    parts, seen = [getattr(dataset, "_ex_iterable", None)], set()
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        parts += [getattr(part, "ex_iterable", None), *(getattr(part, "ex_iterables", None) or ())]


class RememberingStream(IterableDataset[Any]):
    """A stream that, put to a place, says so before it has given its first example from there.

    Those of `datasets` (5.2) say until then that they are at their beginning: a checkpoint made soon after a resume
    would send those workers back that had not been asked yet.

    Arguments:
        stream: The stream.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._placed_at: Any = None

    def __iter__(self) -> Iterator[Any]:
        for example in self.stream:
            self._placed_at = None
            yield example

    def __len__(self) -> int:
        return len(self.stream)

    def state_dict(self) -> Any:
        """Return where the stream is."""
        return self.stream.state_dict() if self._placed_at is None else self._placed_at

    def load_state_dict(self, state: Any) -> None:
        """Put the stream to where `state` says."""
        self.stream.load_state_dict(state)
        self._placed_at = state

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.stream, name)
