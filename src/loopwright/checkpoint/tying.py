"""Find the tensors of a state dict that are one and the same under several names: tied weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def tied_names(state: Mapping[str, Any]) -> list[list[str]]:
    """Return the groups of two names or more that stand for the same memory seen in the same way, sorted."""
    groups: dict[object, list[str]] = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and (place := _place(value)) is not None:
            groups.setdefault(place, []).append(name)
    return [sorted(names) for names in groups.values() if len(names) > 1]


def without_overlaps(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors, each contiguous and none sharing bytes with another: safetensors takes no others."""
    result = {name: tensor.contiguous() for name, tensor in tensors.items()}
    ends: dict[object, int] = {}
    for name, tensor in sorted(result.items(), key=lambda item: item[1].data_ptr()):
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        if tensor.data_ptr() < ends.get(storage, 0):
            result[name] = tensor.clone()
        ends[storage] = max(ends.get(storage, 0), tensor.data_ptr() + tensor.numel() * tensor.element_size())
    return result


def _place(tensor: torch.Tensor) -> object:
    """Return what tells this tensor's memory from any other's; None where it has none."""
    try:
        start = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor subclass without storage of its own
        return None
    if start == 0:  # empty, or on the meta device
        return None
    return (tensor.device, start, tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype)
