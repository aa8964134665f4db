"""Put batches onto a device, whatever they are nested in, at no cost where they are there already."""

from __future__ import annotations

from functools import lru_cache, partial
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

    To a GPU tensors are copied on a stream of their own: where the program is ahead of the device, the copy runs beside
    what is still computed there, and what is computed from now on waits for it.
    """
    if type(batch) is dict:  # the common case, on every step: a flat dict of tensors, often there already
        for value in batch.values():
            if not isinstance(value, torch.Tensor) or value.device != device:
                break
        else:
            return batch
    if device.type != "cuda":
        return map_leaves(batch, partial(_move_leaf, device=device, non_blocking=non_blocking))
    beside, current = _copy_stream(device), torch.cuda.current_stream(device)
    move = partial(_move_beside, device=device, non_blocking=non_blocking, beside=beside, current=current)
    moved = map_leaves(batch, move)
    current.wait_stream(beside)
    return moved


def _move_leaf(leaf: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(leaf, torch.Tensor) or hasattr(leaf, "to"):
        return leaf.to(device, non_blocking=non_blocking)
    return leaf


def _move_beside(
    leaf: Any, *, device: torch.device, non_blocking: bool, beside: torch.cuda.Stream, current: torch.cuda.Stream
) -> Any:
    # Of what moves itself, and of other kinds of tensors, it can't be said which memory they use.
    if type(leaf) is not torch.Tensor or leaf.device.type != "cpu" or leaf.layout is not torch.strided:
        return _move_leaf(leaf, device, non_blocking)
    with torch.cuda.stream(beside):
        moved = leaf.to(device, non_blocking=non_blocking)
    moved.record_stream(current)  # no later copy is given its memory before the computation is done with it
    return moved


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
