"""Put batches onto a device, whatever they are nested in, at no cost where they are there already."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from loopwright.data.nesting import map_leaves


def move_to_device(batch: Any, device: torch.device, non_blocking: bool = False) -> Any:
    """Return `batch` with every tensor on `device`, in containers of the same types.

    What holds nothing to move is returned itself, not a copy. Objects with a `to` method of their own (a packed
    sequence, a graph) are asked to move themselves.

    Arguments:
        batch: A tensor, or tensors nested in mappings, lists and (named) tuples; all else stays as it is.
        device: Where to.
        non_blocking: Let copies from pinned memory run while the program goes on.
    """
    if type(batch) is dict:  # the common case, on every step: a flat dict of tensors, often there already
        for value in batch.values():
            if not isinstance(value, torch.Tensor) or value.device != device:
                break
        else:
            return batch
    return map_leaves(batch, partial(_move_leaf, device=device, non_blocking=non_blocking))


def _move_leaf(leaf: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(leaf, torch.Tensor) or hasattr(leaf, "to"):
        return leaf.to(device, non_blocking=non_blocking)
    return leaf
