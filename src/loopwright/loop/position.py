"""Say where in its data a training is, and what a resumed one has still to put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.loop.update import Update


@dataclass
class Position:
    """Where in the data a training is.

    Attributes:
        epoch: Index of the epoch, counted from 0.
        batches: Micro-batches of it that have been used.
        is_cut: Whether a callback has ended it before its last batch.
        epoch_ended: Whether its `on_epoch_end` has been called too.
    """

    epoch: int = 0
    batches: int = 0
    is_cut: bool = False
    epoch_ended: bool = False


@dataclass
class Resumption:
    """What is to be put back once the data stands where it stood.

    Attributes:
        restore_streams: Puts the random states back.
        data: What the feed's `state` returned.
        flags: Control flags that had not been acted on.
        update: The update that had been begun.
    """

    restore_streams: Callable[[], None] = lambda: None
    data: Mapping[str, Any] | None = None
    flags: Mapping[str, bool] | None = None
    update: Update | None = None
