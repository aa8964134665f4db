"""Weigh what each of several processes has of an update, so that its loss is the mean over the items of all.

DistributedDataParallel averages the gradients of all processes as if each had as many items. So a micro-batch's loss is
multiplied with its share of the items of all, times the number of processes. A process whose data has ended before
the others' goes on with a batch that it has had, at a share of nothing, until all have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loopwright._support.log import get_logger
from loopwright.checkpoint.reader import load_loopwright_state
from loopwright.data.loaders import find_batch_size
from loopwright.data.sharding import ShardedBatches
from loopwright.errors import CheckpointError, DataError
from loopwright.loop.loss import count_items
from loopwright.loop.tokens import count_tokens
from loopwright.loop.update import Update

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks
    from loopwright.runtime.ranks import Ranks

logger = get_logger(__name__)


class Shares:
    """Makes the updates of a training of several processes.

    Arguments:
        trainer: Whose labels, arguments and model decide what an item is.
        ranks: All processes.
        loader: The training loader.
    """

    def __init__(self, trainer: TrainingHooks, ranks: Ranks, loader: Any) -> None:
        self.trainer = trainer
        self.ranks = ranks
        source = getattr(loader, "batch_sampler", None)
        self._source = source if isinstance(source, ShardedBatches) else None
        self._had: Any = None

    def update_of(self, batches: list[Any], number: int, *, wants_items: bool) -> Update | None:
        """Return the update that these micro-batches make with those of the others; None where nobody has any.

        Arguments:
            batches: This process's; there may be fewer than the others have, or none.
            number: Which batch of the epoch the first one is.
            wants_items: Whether model or loss function divide by the number of items.
        """
        trainer, ranks = self.trainer, self.ranks
        items = [self._items_of(batch, number + place) for place, batch in enumerate(batches)]
        if self._source is None:
            self._fill_up(batches, items)
            if not batches:
                return None
        args = trainer.args
        is_together = args.average_tokens_across_devices
        own = torch.tensor([sum(items), self._count_tokens(batches, items)], dtype=torch.int64)
        is_asked = is_together or args.include_num_input_tokens_seen != "no"
        of_all = ranks.begin_sum(own.clone()) if is_asked else own.clone

        def settle(update: Update) -> None:
            total, tokens = of_all().tolist()
            total = total if is_together else int(own[0])
            trainer.state.num_input_tokens_seen += tokens
            times = ranks.size if is_together else 1
            update.weights = [count * times / total if total else 1.0 / len(items) for count in items]
            update.scales = [float(times) if count or not total else 0.0 for count in items]
            update.num_items = torch.tensor(total, device=args.device) if wants_items else None

        # Nobody looks at the shares before the first loss is there, so the sums are on their way during its forward.
        update = Update(batches, weights=[1.0] * len(batches), settle=settle)
        if wants_items:
            update.factors()
        return update

    def _items_of(self, batch: Any, number: int) -> int:
        if self._source is not None and not self._source.num_own(number):
            return 0
        counted = count_items(batch, shifted=self.trainer.labels_are_shifted)
        return int(counted) if counted is not None else find_batch_size(batch) or 1

    def _count_tokens(self, batches: list[Any], items: list[int]) -> int:
        """Return the input tokens of this process's own micro-batches, where they are to be counted."""
        kind = self.trainer.args.include_num_input_tokens_seen
        if kind == "no":
            return 0
        own = (batch for batch, count in zip(batches, items, strict=True) if count)
        return int(sum(count_tokens(self.trainer, batch, only_real=kind == "non_padding") for batch in own))

    def _fill_up(self, batches: list[Any], items: list[int]) -> None:
        """Let this process have as many batches as that which has most, by what counts for nothing."""
        (most,) = self.ranks.agree([len(batches)])
        if batches:
            self._had = batches[-1]
        if len(batches) < most and self._had is None:
            raise DataError(
                f"rank {self.ranks.index} got no batch of the training data, and others did: give each process some, "
                "or start fewer"
            )
        missing = most - len(batches)
        batches.extend([self._had] * missing)
        items.extend([0] * missing)


def keep_update_size(trainer: Any, checkpoint: Path) -> None:
    """Where other processes made `checkpoint`: let an update be of as many examples as before.

    Raises:
        CheckpointError: it can't be, with so many processes and so large batches.
    """
    spread = (load_loopwright_state(checkpoint) or {}).get("spread")
    args, size = trainer.args, trainer.ranks.size
    if spread is None or spread["processes"] == size:
        return
    before = spread["processes"] * spread["batch_size"] * spread["accumulation"]
    at_once = size * trainer._train_batch_size
    if before % at_once:
        raise CheckpointError(
            f"{checkpoint} was made by {spread['processes']} process(es), an update being of {before} examples; {size} "
            f"with per_device_train_batch_size={trainer._train_batch_size} take {at_once} at once, of which "
            f"{before} is no multiple: choose a size that divides it"
        )
    if args.gradient_accumulation_steps != before // at_once:
        logger.warning(
            "gradient_accumulation_steps=%d in place of %d, so that an update is of %d examples as with %d process(es)",
            before // at_once,
            args.gradient_accumulation_steps,
            before,
            spread["processes"],
        )
        args.gradient_accumulation_steps = before // at_once


def spread_of(trainer: Any) -> dict[str, int]:
    """Return how an update's examples are spread, for a checkpoint."""
    return {
        "processes": trainer.ranks.size,
        "batch_size": trainer._train_batch_size,
        "accumulation": trainer.args.gradient_accumulation_steps,
    }


def batches_now(batches: int, spread: Mapping[str, int], trainer: Any) -> int:
    """Return how many batches of all are as many examples as `batches` were under `spread`.

    Raises:
        CheckpointError: no number of whole ones is.
    """
    examples = batches * spread["processes"] * spread["batch_size"]
    whole = trainer.ranks.size * trainer._train_batch_size
    if examples % whole:
        raise CheckpointError(
            f"the checkpoint stands after {examples} examples of its epoch, and {trainer.ranks.size} process(es) with "
            f"per_device_train_batch_size={trainer._train_batch_size} take {whole} at once"
        )
    now: int = examples // whole
    return now
