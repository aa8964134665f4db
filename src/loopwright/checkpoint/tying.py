"""Find the tensors of a state dict that are one and the same under several names: tied weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from loopwright.runtime.dtensors import local_part


def tied_names(state: Mapping[str, Any]) -> list[list[str]]:
    """Return the groups of two names or more that stand for the same memory seen in the same way, sorted."""
    groups: dict[object, list[str]] = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and (place := _place(local_part(value))) is not None:
            groups.setdefault(place, []).append(name)
    return [sorted(names) for names in groups.values() if len(names) > 1]


def _place(tensor: torch.Tensor) -> object:
    """Return what tells this tensor's memory from any other's; None where it has none."""
    try:
        start = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor subclass without storage of its own
        return None
    if start == 0:  # empty, or on the meta device
        return None
    return (tensor.device, start, tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype)
