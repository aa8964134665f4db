"""Continue a loader in the middle of an epoch.

    its state        a loader with `state_dict` and `load_state_dict` (torchdata's `StatefulDataLoader`), or a dataset
                     with both that is read in the training process (Hugging Face `datasets` streaming)
    its indices      map-style data: no example of a batch that is past is loaded
    reading past it  everything else, batch by batch

Only the last takes longer the further the position is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from loopwright.data.loaders import has_length
from loopwright.data.numbering import source_of, with_source
from loopwright.data.samplers import EpochSampler, step_over, too_few_batches
from loopwright.data.sharding import ShardedBatches
from loopwright.data.streams import forgets_its_buffer, has_an_order_of_its_own, has_state

OnSkip = Callable[[int, int], None]


def carrier_of(loader: Any) -> Any:
    """Return what knows the position in `loader` exactly and can be put back there; None where nothing does."""
    dataset = getattr(loader, "dataset", None)
    if forgets_its_buffer(dataset):
        return None
    if has_state(loader):
        return loader
    if isinstance(loader, DataLoader) and loader.num_workers == 0 and isinstance(dataset, IterableDataset):
        return dataset if has_state(dataset) else None
    return None


def is_read_past(loader: Any) -> bool:
    """Return whether `loader` can be continued only by reading the batches before the position."""
    by_index = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return carrier_of(loader) is None and not by_index


def why_read_past(loader: Any) -> str:
    """Return why `loader` has to be read from its beginning, and what would change that, in one sentence."""
    dataset = getattr(loader, "dataset", None)
    if has_an_order_of_its_own(dataset):
        return (
            "the stream is shuffled without a seed, so this is another order than the run had, in which some examples "
            "come twice and some not at all; shuffle(seed=42) makes a resume exact"
        )
    if forgets_its_buffer(dataset):
        return "the state of a Hugging Face stream forgets what is in its shuffle buffer"
    if has_state(dataset):
        return 'the dataset\'s state is in worker processes; pip install "loopwright[streaming]" gets it from there'
    return "it has no state_dict and load_state_dict, which would make this needless"


def iterate_from(loader: Iterable[Any], num_batches: int, *, on_skip: OnSkip | None = None) -> Iterator[Any]:
    """Return an iterator over `loader` that begins after so many of this epoch's batches.

    Map-style data: no example of a skipped batch is loaded; with an `EpochSampler` the position costs nothing, with
    other samplers their indices are stepped over. Other data is read and thrown away before this returns: set the
    random states that the epoch began with before, and those of the position after.

    Arguments:
        loader: A `DataLoader`, or any iterable of batches.
        num_batches: The position.
        on_skip: Called as `on_skip(done, num_batches)` after each batch that is thrown away.

    Raises:
        DataError: the epoch has fewer batches.
    """
    if num_batches <= 0:
        return iter(loader)
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        return _iterate_indices_from(loader, num_batches, on_skip)
    return read_past(iter(loader), num_batches, on_skip)


def _iterate_indices_from(loader: DataLoader[Any], num_batches: int, on_skip: OnSkip | None) -> Iterator[Any]:
    placed = loader if source_of(loader) else with_source(loader, None)
    numbered = source_of(placed)
    if numbered is None:  # a loader that finds its sampler in a way of its own
        return read_past(iter(loader), num_batches, on_skip)
    source = numbered.source
    if has_length(source) and num_batches > len(source):
        raise too_few_batches(num_batches, len(source))
    is_placed = False
    if type(source) is BatchSampler and isinstance(sampler := source.sampler, EpochSampler):
        sampler.skip(min(num_batches * source.batch_size, len(sampler)))
        is_placed = True
    elif isinstance(source, ShardedBatches):
        source.skip(num_batches)
        is_placed = True
    numbered.was_asked = False
    numbered.begin(numbered.epoch, num_batches, is_placed=is_placed)
    batches = iter(placed)
    if not numbered.was_asked:  # this class iterates in a way of its own, or not before the first batch is asked for
        numbered.begin(numbered.epoch)
        return read_past(iter(loader), num_batches, on_skip)
    numbered.skip_now()  # a shuffling sampler draws its order with the first index, from the streams that are set now
    return batches


def read_past(batches: Iterator[Any], num_batches: int, on_skip: OnSkip | None = None) -> Iterator[Any]:
    """Read so many of `batches` and throw them away; return the iterator.

    Raises:
        DataError: there are fewer.
    """
    for done in range(1, num_batches + 1):
        if not step_over(batches, 1):
            raise too_few_batches(num_batches, done - 1)
        if on_skip is not None:
            on_skip(done, num_batches)
    return batches
