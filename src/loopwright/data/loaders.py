"""Build data loaders, and begin their epochs.

Randomness: a loader built here draws from a generator of its own, set by seed and epoch, for the seeds of its workers.
Beginning an epoch thus leaves torch's global random stream where it was, for dropout and the like.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from loopwright._support.extras import is_installed, require
from loopwright.data.samplers import EpochSampler
from loopwright.data.sharding import BatchShards, ShardedBatches, Shards, shard_stream
from loopwright.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

Collate = Callable[[list[Any]], Any]


class _Seeded:
    generator: torch.Generator

    def __init__(self, dataset: Any, *, seed: int, **options: Any) -> None:
        super().__init__(dataset, generator=torch.Generator(), **options)  # type: ignore[call-arg]  # DataLoader's
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Put the generator to where it is at the beginning of epoch `epoch`."""
        # Not the sum that EpochSampler takes, so that seed 1's epoch 0 is not seed 0's epoch 1. torch uses 32 bits.
        self.generator.manual_seed((self.seed * 1_000_003 + epoch) % 2**32)


class DealtLoader(_Seeded, DataLoader[Any]):
    """A `SeededLoader` that makes all batches, and gives out every one whose turn is this process's.

    For iterable datasets in evaluations: what workers read and a collator draws at random is then what it is in one
    process, and so is the order. Hugging Face's own way to split a stream changes that, and with `take` the examples.

    Arguments:
        dataset: As for `DataLoader`.
        shards: Whose batches.
        options: As for `SeededLoader`.
    """

    def __init__(self, dataset: Any, *, shards: Shards, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.shards = shards

    def __iter__(self) -> Any:
        return islice(super().__iter__(), self.shards.index, None, self.shards.size)

    def __len__(self) -> int:
        return len(range(self.shards.index, super().__len__(), self.shards.size))


class SeededLoader(_Seeded, DataLoader[Any]):
    """A `DataLoader` whose workers' seeds depend on its seed and the epoch, not on what was drawn before.

    Arguments:
        dataset: As for `DataLoader`.
        seed: With the epoch's number, decides the seeds of the workers.
        options: As for `DataLoader`, but for `generator`.
    """


def build_train_loader(  # noqa: PLR0913 -- what decides which example comes when
    dataset: Any,
    args: TrainingArguments,
    collate: Collate | None,
    *,
    sampler: Sampler[int] | Iterable[int] | None = None,
    batch_size: int,
    shards: Shards | None = None,
) -> DataLoader[Any]:
    """Return the loader to train with.

    Where the position is in the state of a dataset that workers read, it is torchdata's `StatefulDataLoader`, which
    brings that state from there, if that is installed.

    Arguments:
        dataset: Map-style or an `IterableDataset`, of torch or `datasets`.
        args: Its `dataloader_*` arguments, `train_sampling_strategy`, and `data_seed` or else `seed` count.
        collate: Makes a batch of a list of examples.
        sampler: Chooses the order; by default an `EpochSampler`. Not for an `IterableDataset`, which orders itself.
        batch_size: Examples a batch.
        shards: Which part of the data is this process's, where several train.

    Raises:
        DataError: the dataset is neither iterable-style nor has a length.
        DataError: several train, and the stream is shuffled without a seed.
    """
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = _train_sampler(dataset, args)
    options = _loader_options(args)
    if shards is None or sampler is None:
        options |= {"sampler": sampler, "batch_size": batch_size, "drop_last": args.dataloader_drop_last}
    else:
        options["batch_sampler"] = ShardedBatches(sampler, shards, drop_last=args.dataloader_drop_last)  # type: ignore[arg-type]
    if shards is not None and sampler is None:
        dataset = shard_stream(dataset, shards, drop_last=args.dataloader_drop_last)
    kind = _stateful_loader() if args.dataloader_num_workers and _is_stateful_stream(dataset) else SeededLoader
    return kind(dataset, seed=data_seed(args), collate_fn=collate, **options)


def build_eval_loader(
    dataset: Any,
    args: TrainingArguments,
    collate: Collate | None,
    *,
    batch_size: int,
    shards: BatchShards | None = None,
) -> DataLoader[Any]:
    """Return the loader to evaluate or predict with: in order, and all of it.

    With `shards`, of the batches that it would have without them each process gets the next one in turn.
    """
    options = _loader_options(args) | {"seed": data_seed(args), "collate_fn": collate}
    if shards is None:
        return SeededLoader(dataset, batch_size=batch_size, **options)
    if isinstance(dataset, IterableDataset):
        options["in_order"] = True  # whose turn a batch is has to be the same in all processes
        return DealtLoader(dataset, shards=shards, batch_size=batch_size, **options)
    order = EpochSampler(len(dataset), seed=0, shuffle=False)
    return SeededLoader(dataset, batch_sampler=ShardedBatches(order, shards, fills_up=False), **options)


def begin_epoch(loader: Any, epoch: int) -> None:
    """Tell every part of `loader` that has a `set_epoch` (itself, samplers, dataset) that epoch `epoch` begins."""
    for part in parts_of(loader):
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(epoch)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the random generators that the parts of `loader` draw from, where they have one of their own."""
    found = (getattr(part, "generator", None) for part in parts_of(loader))
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def parts_of(loader: Any) -> list[Any]:
    """Return `loader`, its batch sampler, samplers and dataset, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = (
        loader,
        batch_sampler,
        getattr(batch_sampler, "batch_sampler", None),
        getattr(batch_sampler, "sampler", None),
        getattr(loader, "sampler", None),
        getattr(loader, "dataset", None),
    )
    return list({id(part): part for part in parts}.values())


def has_length(thing: Any) -> bool:
    """Return whether `len(thing)` works; whatever it raises is a no."""
    try:
        len(thing)
    except Exception:  # datasets in the wild raise TypeError, AttributeError, NotImplementedError, RuntimeError ...
        return False
    return True


def num_examples(loader: Any, *, batch_size: int | None = None) -> int:
    """Return how many examples `loader` goes through: its dataset's length, or batches times batch size.

    Arguments:
        loader: A `DataLoader`, or anything with a length.
        batch_size: Taken where the loader doesn't name one.

    Raises:
        DataError: there is no telling.
    """
    dataset = getattr(loader, "dataset", None)
    if has_length(dataset):
        return len(cast(Sized, dataset))
    batch_size = cast("int | None", getattr(loader, "batch_size", None)) or batch_size
    if batch_size is None or not has_length(loader):
        raise DataError(f"can't tell how many examples a {type(loader).__name__} has: no length, or no batch size")
    return len(loader) * batch_size


def find_batch_size(batch: Any) -> int | None:
    """Return the first dimension of the first tensor or array in `batch` that has one; None if there is none."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return int(batch.shape[0]) if batch.ndim else None
    if isinstance(batch, dict) or isinstance(batch, Mapping):  # noqa: SIM101 -- dict first: it is 10 times as fast
        first = next(iter(batch.values()), None)
        if type(first) is torch.Tensor and first.ndim:  # nearly always
            return first.shape[0]
        batch = batch.values()
    elif not isinstance(batch, (list, tuple)):
        return None
    for value in batch:
        if (size := find_batch_size(value)) is not None:
            return size
    return None


def data_seed(args: TrainingArguments) -> int:
    """Return the seed of everything that is drawn at random for the data."""
    return args.seed if args.data_seed is None else args.data_seed


def _train_sampler(dataset: Any, args: TrainingArguments) -> EpochSampler:
    strategy = args.train_sampling_strategy
    if strategy not in ("random", "sequential"):
        raise ArgumentError(f'train_sampling_strategy={strategy!r}: expected "random" or "sequential"')
    if not has_length(dataset):
        raise DataError(
            f"can't train on a {type(dataset).__name__}: it has no length. Give it a __len__, or let it inherit "
            "torch.utils.data.IterableDataset if it is read from beginning to end"
        )
    return EpochSampler(len(dataset), seed=data_seed(args), shuffle=strategy == "random")


def _loader_options(args: TrainingArguments) -> dict[str, Any]:
    return {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and not args.use_cpu and _can_pin_memory(),
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "in_order": args.dataloader_in_order,
    }


def _can_pin_memory() -> bool:
    """Return whether pinned memory helps here: elsewhere torch warns and goes on without."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator is not None and accelerator.type != "mps"


def _is_stateful_stream(dataset: Any) -> bool:
    return isinstance(dataset, IterableDataset) and callable(getattr(dataset, "load_state_dict", None))


def _stateful_loader() -> type[Any]:
    if not is_installed("torchdata"):
        return SeededLoader
    module = require("torchdata.stateful_dataloader", extra="streaming", purpose="a dataset with a state")
    return type("SeededStatefulLoader", (_Quiet, _Seeded, module.StatefulDataLoader), {})


class _Quiet:
    def __init__(self, *arguments: Any, **options: Any) -> None:
        with warnings.catch_warnings():
            # torchdata 0.11 calls what torch has deprecated since, which is no news to whoever trains.
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
            super().__init__(*arguments, **options)
