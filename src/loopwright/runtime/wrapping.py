"""Wrap a model for training in several processes, and find it again inside what torch wraps around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments


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


def wrap_for_ranks(model: nn.Module, args: TrainingArguments) -> nn.Module:
    """Return `model` in `DistributedDataParallel`, with the `ddp_*` arguments; as it is where nothing is trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    options: dict[str, Any] = {
        "find_unused_parameters": bool(args.ddp_find_unused_parameters),
        "static_graph": bool(args.ddp_static_graph),
        "device_ids": [args.device.index] if args.device.type == "cuda" else None,
        # A gradient's memory is that of the message: copying it there and back is saved.
        "gradient_as_bucket_view": True,
    }
    if args.ddp_bucket_cap_mb is not None:
        options["bucket_cap_mb"] = args.ddp_bucket_cap_mb
    if args.ddp_broadcast_buffers is not None:
        options["broadcast_buffers"] = args.ddp_broadcast_buffers
    return DistributedDataParallel(model, **options)


def data_parallel_of(model: nn.Module) -> DistributedDataParallel | None:
    """Return the `DistributedDataParallel` in `model`, compiled or not; None where there is none."""
    if "_orig_mod" in model._modules:
        model = model.get_submodule("_orig_mod")
    return model if isinstance(model, DistributedDataParallel) else None


def is_sharded(model: nn.Module) -> bool:
    """Return whether `fully_shard` has been applied to `model`, compiled or not: a forward is all processes' then."""
    # Its module takes seconds to import; who hasn't imported it has sharded nothing.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(unwrap_model(model), fsdp.FSDPModule)


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which a backward pass keeps its gradients to this process."""
    if is_sharded(model):
        return _keeping_gradients(unwrap_model(model))
    wrapped = data_parallel_of(model)
    return nullcontext() if wrapped is None else wrapped.no_sync()


@contextmanager
def _keeping_gradients(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def inside_data_parallel(model: nn.Module) -> nn.Module:
    """Return the module that `DistributedDataParallel` wraps, compiled or not; `model` itself where that isn't there.

    Called by itself it does nothing across processes, so that each may go through as many batches as it has.
    """
    wrapped = data_parallel_of(model)
    return model if wrapped is None else wrapped.module


def shared_buffers(model: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that all processes are to have as the first one has them, when the model is looked at.

    After a step each process has changed its own, by its own batch. `DistributedDataParallel` brings the first one's to
    all at every step of a training, `fully_shard` never does.
    """
    if is_sharded(model):
        return [buffer.detach() for buffer in model.buffers()]
    wrapped = data_parallel_of(model)
    return [] if wrapped is None or not wrapped.broadcast_buffers else [one.detach() for one in wrapped.buffers()]
