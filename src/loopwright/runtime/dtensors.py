"""Look through `DTensor`s, tensors of which each process has a part, without importing them where there are none."""

from __future__ import annotations

import sys
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


def gathered(value: Any, *, is_kept: bool) -> Any:
    """Return a copy of a tensor in the CPU's memory, a `DTensor` whole, and any other value as it is.

    All processes have to call it with theirs.

    Arguments:
        value: The same on all processes but for their parts.
        is_kept: Whether this process wants the copy; else None takes the tensor's place.
    """
    if not isinstance(value, torch.Tensor):
        return value
    full = value.detach().full_tensor() if is_dtensor(value) else value.detach()
    return full.to("cpu", copy=True) if is_kept else None


def spread_as(full: Any, like: Any) -> Any:
    """Return `full`, which every process has, as what `like` is: of a `DTensor`, this process's part of it."""
    is_to_spread = is_dtensor(like) and isinstance(full, torch.Tensor) and not is_dtensor(full)
    if not is_to_spread or full.shape != like.shape:
        return full
    from torch.distributed.tensor import distribute_tensor

    # Nothing is sent: each takes its part of its own.
    local = full.to(local_part(like).device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
