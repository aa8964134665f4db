"""Draw batches without what torch adds to each for a profiler that isn't running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.autograd import profiler
from torch.utils.data import dataloader

# Of torch itself and no subclass: what others override has to be called. Private, so that a torch without it is one
# whose iterators are simply asked.
_SINGLE_PROCESS = getattr(dataloader, "_SingleProcessDataLoaderIter", None)
_KINDS: Any = getattr(dataloader, "_DatasetKind", None)


def drawer(batches: Iterator[Any]) -> Callable[[], Any]:
    """Return a function that draws the next batch of `batches`, or raises StopIteration as `next` does.

    The iterator of a `DataLoader` opens a range for the profiler around each batch, which takes about 40 µs where none
    is running: more than the batch itself, where examples are in memory.
    """
    if _SINGLE_PROCESS is None or type(batches) is not _SINGLE_PROCESS or batches._dataset_kind != _KINDS.Map:
        return batches.__next__

    def draw() -> Any:
        if profiler._is_profiler_enabled or batches._sampler_iter is None:
            return next(batches)
        batch = batches._next_data()
        batches._num_yielded += 1
        return batch

    return draw
