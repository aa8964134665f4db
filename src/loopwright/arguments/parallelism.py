"""On which device, and in how many processes."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.annotations import Options


@dataclass(init=False, repr=False, eq=False)
class ParallelismArguments:
    """Device and processes; whatever needs more than one process is refused for now."""

    use_cpu: bool = False
    """Train on the CPU even where there is a GPU."""

    local_rank: int = -1
    """Number of this process on its machine, for launchers that pass it; the variable LOCAL_RANK goes first."""

    ddp_find_unused_parameters: bool | None = None
    """Refused: `find_unused_parameters` of DistributedDataParallel."""

    ddp_bucket_cap_mb: int | None = None
    """Refused: `bucket_cap_mb` of DistributedDataParallel."""

    ddp_broadcast_buffers: bool | None = None
    """Refused: `broadcast_buffers` of DistributedDataParallel."""

    ddp_static_graph: bool | None = None
    """Refused: `static_graph` of DistributedDataParallel."""

    ddp_backend: str | None = None
    """Refused: the backend of `torch.distributed`."""

    ddp_timeout: int = 1800
    """Refused at another value: seconds that a collective operation may take."""

    fsdp: str | None = None
    """Refused: sharding by FSDP."""

    fsdp_config: Options = None
    """Refused: how FSDP shards."""

    deepspeed: Options = None
    """Refused: DeepSpeed's configuration."""

    accelerator_config: Options = None
    """Refused: configuration of Accelerate, which Loopwright doesn't use."""

    parallelism_config: str | None = None
    """Refused: Accelerate's layout of processes."""
