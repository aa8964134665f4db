"""On which device, and in how many processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwright.arguments.annotations import Options, OptionsOrFile, Words


@dataclass(init=False, repr=False, eq=False)
class ParallelismArguments:
    """Device and processes, which torchrun starts."""

    use_cpu: bool = False
    """Train on the CPU even where there is a GPU."""

    local_rank: int = -1
    """Number of this process on its machine, for launchers that pass it; the variable LOCAL_RANK goes first."""

    ddp_find_unused_parameters: bool | None = None
    """`find_unused_parameters` of DistributedDataParallel: True where a step leaves parameters out; None for False."""

    ddp_bucket_cap_mb: int | None = None
    """`bucket_cap_mb` of DistributedDataParallel: megabytes of gradients in a message; None for torch's default."""

    ddp_broadcast_buffers: bool | None = None
    """`broadcast_buffers` of DistributedDataParallel: whether all get the first process's; None for torch's default."""

    ddp_static_graph: bool | None = None
    """`static_graph` of DistributedDataParallel: True where all steps use the same parameters; None for False."""

    ddp_backend: str | None = None
    """The backend of `torch.distributed`; None for "nccl" on CUDA, else "gloo"."""

    ddp_timeout: int = 1800
    """Seconds that a collective operation may take."""

    fsdp: Words = field(default=None, metadata={"nargs": "?", "const": True})
    """True shards the model over the processes by `fully_shard`; also words: "full_shard", "hybrid_shard", ..."""

    fsdp_config: OptionsOrFile = None
    """How it is sharded, and saved: a dict, or the name of a JSON file."""

    deepspeed: Options = None
    """Refused: DeepSpeed's configuration."""

    accelerator_config: Options = None
    """Refused: configuration of Accelerate, which Loopwright doesn't use."""

    parallelism_config: str | None = None
    """Refused: Accelerate's layout of processes."""
