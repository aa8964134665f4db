"""Find the user's own model inside what torch wraps around it."""

from __future__ import annotations

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
