"""How batches come out of the datasets."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.choices import SamplingStrategy, StartMethod


@dataclass(init=False, repr=False, eq=False)
class DataLoadingArguments:
    """Order, columns and worker processes."""

    train_sampling_strategy: SamplingStrategy | str = "random"
    """Order of the training examples: "random", anew in each epoch, "sequential", or "group_by_length": random, with
    examples of about the same length side by side."""

    data_seed: int | None = None
    """Seed of the order of the training examples; None takes `seed`."""

    length_column_name: str = "length"
    """Entry of the examples that holds their lengths, for "group_by_length"; without it the main input is measured."""

    remove_unused_columns: bool = True
    """Drop columns that the model's `forward` doesn't name."""

    label_names: list[str] | None = None
    """Names of the batch's entries that are labels; None finds them in the model's `forward`."""

    dataloader_drop_last: bool = False
    """Leave out an epoch's last batch where it is short."""

    dataloader_num_workers: int = 0
    """Processes that load data; 0 loads in the training process."""

    dataloader_pin_memory: bool = True
    """Put batches into pinned memory, from which copying to a GPU is faster. Becomes False with `use_cpu`."""

    dataloader_persistent_workers: bool = False
    """Keep the loading processes from one epoch to the next."""

    dataloader_prefetch_factor: int | None = None
    """Batches that each loading process prepares ahead; None takes torch's default."""

    dataloader_multiprocessing_context: StartMethod | str | None = None
    """How loading processes are started: "fork", "spawn" or "forkserver"; None takes torch's default."""

    dataloader_in_order: bool = True
    """Deliver batches in order even where a later one is ready first."""
