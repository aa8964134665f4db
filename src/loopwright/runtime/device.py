"""What differs between the CPU and the devices beside it."""

from __future__ import annotations

import torch


def is_accelerator(device: torch.device) -> bool:
    """Return whether `device` computes beside the CPU, with a memory of its own to copy to."""
    return device.type not in {"cpu", "meta"}


def empty_cache(device: torch.device) -> None:
    """Hand memory that torch keeps on `device` for reuse back to the driver; nothing to do on the CPU."""
    if is_accelerator(device):
        torch.get_device_module(device).empty_cache()
