"""Choose the device that this process trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopwright.errors import ArgumentError

if TYPE_CHECKING:
    import torch


def choose_device(use_cpu: bool, local_index: int = 0) -> torch.device:
    """Return this process's device, and make it the current one of its kind.

    The first that is there of CUDA (which ROCm builds call themselves too), MPS and XPU, else the CPU.

    Arguments:
        use_cpu: Stay on the CPU whatever else there is.
        local_index: Number of this process on its machine, which picks one where several of a kind are there.

    Raises:
        ArgumentError: `local_index` points past the last device.
    """
    # Not at the top: arguments are read and checked in programs that never load torch.
    import torch  # noqa: PLC0415

    if use_cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _checked(local_index, "cuda", torch.cuda.device_count()))
        # Kernels, streams and NCCL that name no device use the current one: without this, every rank's would be 0.
        torch.cuda.set_device(device)
        return device
    if torch.backends.mps.is_available():
        return torch.device("mps", 0)  # with its index, as tensors report it: devices that differ in it aren't equal
    if torch.xpu.is_available():
        device = torch.device("xpu", _checked(local_index, "xpu", torch.xpu.device_count()))
        torch.xpu.set_device(device)
        return device
    return torch.device("cpu")


def _checked(rank: int, kind: str, num_devices: int) -> int:
    if not 0 <= rank < num_devices:
        raise ArgumentError(
            f"environment variable LOCAL_RANK={rank}: expected a number from 0 to {num_devices - 1}, this machine has "
            f"{num_devices} {kind} device(s); start as many processes per machine as it has devices"
        )
    return rank
