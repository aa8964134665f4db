"""Look through `DTensor`s, tensors of which each process has a part, without importing them where there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch


def is_dtensor(value: Any) -> TypeGuard[Any]:
    """Return whether `value` is a tensor that lies in parts on several processes."""
    module = sys.modules.get("torch.distributed.tensor")  # loaded by whoever makes one
    return module is not None and isinstance(value, module.DTensor)


def local_part(tensor: Any) -> Any:
    """Return this process's part of a `DTensor`, sharing its memory; any other value as it is."""
    return tensor.detach()._local_tensor if is_dtensor(tensor) else tensor


def with_part(part: torch.Tensor, like: Any) -> Any:
    """Return `part` as this process's part of what `like` is: of the same shape, spread in the same way."""
    # Not `from_local`, which brings the part to the device of the mesh: a copy in the CPU's memory is to stay there.
    return type(like)(part, like._spec, requires_grad=False) if is_dtensor(like) else part


def whole(nested: Any, *, is_kept: bool) -> Any:
    """Return a copy of `nested` in the CPU's memory, its `DTensor`s whole; all processes have to call it.

    Arguments:
        nested: Dicts, lists and tuples; the same on all processes but for their parts.
        is_kept: Whether this process wants it; else None takes the tensors' place, and memory is needed for one.
    """

    def gathered(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        full = value.detach().full_tensor() if is_dtensor(value) else value.detach()
        return full.to("cpu", copy=True) if is_kept else None

    return mapped(nested, gathered)


def spread_as(full: Any, like: Any) -> Any:
    """Return `full`, which every process has, as what `like` is: of a `DTensor`, this process's part of it."""
    is_to_spread = is_dtensor(like) and isinstance(full, torch.Tensor) and not is_dtensor(full)
    if not is_to_spread or full.shape != like.shape:
        return full
    from torch.distributed.tensor import distribute_tensor

    # Nothing is sent: each takes its part of its own.
    local = full.to(local_part(like).device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)


def mapped(nested: Any, function: Callable[[Any], Any]) -> Any:
    """Return `nested`, of dicts, lists and tuples, with `function` applied to all that is in it, in one order."""
    if isinstance(nested, dict):
        return {key: mapped(value, function) for key, value in nested.items()}
    if type(nested) in (list, tuple):
        items: Iterable[Any] = (mapped(value, function) for value in nested)
        return type(nested)(items)
    return function(nested)
