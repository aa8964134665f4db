"""Find the user's own model inside what torch wraps around it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside `torch.compile`, `DataParallel` and `DistributedDataParallel`, in whatever order.

    Only these are opened: a model of the user's may well have a submodule that is called "module".
    """
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:  # torch.compile; its class is torch's own and slow to import
            model = model.get_submodule("_orig_mod")
        else:
            return model


def inside_data_parallel(model: nn.Module) -> nn.Module:
    """Return the module that `DistributedDataParallel` wraps, compiled or not; `model` itself where that isn't there.

    Called by itself it does nothing across processes, so that each may go through as many batches as it has.
    """
    wrapped = model.get_submodule("_orig_mod") if "_orig_mod" in model._modules else model
    return wrapped.module if isinstance(wrapped, DistributedDataParallel) else model


def shared_buffers(model: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that `DistributedDataParallel` brings to all processes at every step of a training.

    After a step each process has changed its own, by its own batch.
    """
    wrapped = model.get_submodule("_orig_mod") if "_orig_mod" in model._modules else model
    is_shared = isinstance(wrapped, DistributedDataParallel) and wrapped.broadcast_buffers
    return [buffer.detach() for buffer in wrapped.buffers()] if is_shared else []
