"""Shard a model over processes by torch's `fully_shard` (FSDP2), as `fsdp` and `fsdp_config` say.

Each process keeps a part of every parameter, and gets the rest of a layer's when that layer is at work. torch's module
takes seconds to import, so it is imported where a model is sharded and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from loopwright._support.env import read_int
from loopwright._support.log import get_logger
from loopwright.errors import ArgumentError
from loopwright.runtime.wrapping import is_sharded

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.arguments.sharding import Sharding
    from loopwright.runtime.ranks import Ranks

logger = get_logger(__name__)


def shard_model(model: nn.Module, args: TrainingArguments, sharding: Sharding, ranks: Ranks) -> None:
    """Shard `model` in place; nothing happens to one that is sharded already.

    All processes begin with what the first one has. Parameters become `DTensor`s, so an optimizer is to be made
    afterwards.

    Raises:
        ArgumentError: the model has none of the layers, or the machines can't be told apart.
    """
    if is_sharded(model):
        return
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    layers = list(_layers(model, sharding))
    options: dict[str, Any] = {
        "mesh": _mesh(args, sharding, ranks),
        "reshard_after_forward": sharding.reshard_after_forward,
    }
    if args.bf16:
        # Gathered in half the bytes; gradients are summed in full, and the optimizer has full weights.
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if sharding.cpu_offload:
        if args.device.type == "cpu":
            raise ArgumentError("fsdp_config['cpu_offload']=True: the model is trained on the CPU already")
        options["offload_policy"] = CPUOffloadPolicy()
    ranks.spread(tensor.detach() for tensor in (*model.parameters(), *model.buffers()))
    for layer in layers:
        if sharding.activation_checkpointing:
            _compute_again(layer)
        fully_shard(layer, **options)
    fully_shard(model, **options)
    logger.info("sharded over %d processes, %d layers each by itself", ranks.size, len(layers))


def _layers(model: nn.Module, sharding: Sharding) -> Iterator[nn.Module]:
    """Yield the modules that are sharded each by itself, inner ones first.

    Those of the classes that are named or, of a model of transformers, that it says are not to be split; those that are
    large enough; or else the members of the outermost `ModuleList`s, which is where models keep their blocks.
    """
    if not sharding.by_itself:
        return
    names = sharding.layers or tuple(getattr(model, "_no_split_modules", None) or ())
    if sharding.min_num_params and not sharding.layers:
        yield from _of_size(model, sharding.min_num_params)
    elif names:
        found = [module for module in model.modules() if type(module).__name__ in names and module is not model]
        if not found and sharding.layers:
            there = sorted({type(module).__name__ for module in model.modules()})
            raise ArgumentError(
                f"fsdp_config['transformer_layer_cls_to_wrap']={list(names)}: {type(model).__name__} has no such "
                f"modules; expected some of {', '.join(there)}"
            )
        yield from reversed(found)  # a parent comes before what is in it
    else:
        yield from _in_lists(model)


def _of_size(module: nn.Module, least: int, *, is_whole: bool = True) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _of_size(child, least, is_whole=False)
    own = sum(parameter.numel() for parameter in module.parameters())
    if not is_whole and own >= least and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield module


def _in_lists(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (member for member in child if any(True for _ in member.parameters()))
        else:
            yield from _in_lists(child)


def _compute_again(layer: nn.Module) -> None:
    """Let the layer keep nothing of its forward pass but the inputs."""
    # The forward itself, not a module around it: names of parameters stay what they are.
    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def _mesh(args: TrainingArguments, sharding: Sharding, ranks: Ranks) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    device = args.device.type
    if not sharding.hybrid:
        return init_device_mesh(device, (ranks.size,), mesh_dim_names=("shard",))
    local = read_int("LOCAL_WORLD_SIZE", read_int("SLURM_NTASKS_PER_NODE", 0))
    if not local or ranks.size % local:
        raise ArgumentError(
            f"fsdp='hybrid_shard' with {ranks.size} processes: expected LOCAL_WORLD_SIZE, which torchrun sets, to say "
            f"how many of them each machine has; it is {local or 'not set'}"
        )
    return init_device_mesh(device, (ranks.size // local, local), mesh_dim_names=("replicate", "shard"))
