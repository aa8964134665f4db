"""Where this process stands among all, and which device it has."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from loopwright._support.env import read_int
from loopwright._support.log import ROOT_NAME, Logger, get_logger
from loopwright.arguments.choices import ParallelMode
from loopwright.arguments.devices import choose_device
from loopwright.arguments.fields import ArgumentFields

if TYPE_CHECKING:
    import torch

logger: Logger = get_logger(__name__)

_LEVELS = {
    "detail": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class ProcessView(ArgumentFields):
    """What follows from the arguments on this machine, in this process, which `torchrun` or Slurm has started."""

    @property
    def world_size(self) -> int:
        """Number of processes (WORLD_SIZE, or the tasks of Slurm's step)."""
        return read_int("WORLD_SIZE", read_int("SLURM_STEP_NUM_TASKS", 1))

    @property
    def process_index(self) -> int:
        """Number of this process among all (RANK, or Slurm's SLURM_PROCID)."""
        return read_int("RANK", read_int("SLURM_PROCID", 0) if _is_of_slurm() else 0)

    @property
    def local_process_index(self) -> int:
        """Number of this process on its machine (LOCAL_RANK, or else `local_rank`, or else Slurm's SLURM_LOCALID)."""
        by_slurm = read_int("SLURM_LOCALID", 0) if _is_of_slurm() else 0
        return read_int("LOCAL_RANK", self.local_rank if self.local_rank >= 0 else by_slurm)

    @property
    def parallel_mode(self) -> ParallelMode:
        """Whether there are several processes; one process never spreads over several GPUs."""
        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def device(self) -> torch.device:
        """The device of this process: CUDA or MPS where there is one, unless `use_cpu`; else the CPU."""
        return _device_once(self.use_cpu, self.local_process_index)

    @property
    def n_gpu(self) -> int:
        """GPUs that this process uses: 1 or 0."""
        return int(self.device.type != "cpu")

    @property
    def train_batch_size(self) -> int:
        """Examples in a training micro-batch of this process."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Examples in an evaluation batch of this process."""
        return self.per_device_eval_batch_size

    @property
    def place_model_on_device(self) -> bool:
        """Whether the Trainer moves the model to `device`; to be overridden."""
        return True

    @property
    def should_log(self) -> bool:
        """Whether this process speaks with `log_level` rather than `log_level_replica`."""
        return (self.local_process_index if self.log_on_each_node else self.process_index) == 0

    @property
    def should_save(self) -> bool:
        """Whether this process writes to disk."""
        return (self.local_process_index if self.save_on_each_node else self.process_index) == 0

    @property
    def ddp_timeout_delta(self) -> timedelta:
        """`ddp_timeout` as torch.distributed wants it."""
        return timedelta(seconds=self.ddp_timeout)

    def get_process_log_level(self) -> int:
        """Return this process's log level, as a number of `logging`; for "passive" the one in force."""
        chosen = self.log_level if self.should_log else self.log_level_replica
        return _LEVELS.get(chosen, logging.getLogger(ROOT_NAME).getEffectiveLevel())

    @contextlib.contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Let the others wait before the `with` block until the first process has gone through it.

        Arguments:
            local: Whether the first process of each machine goes first, or only the first of all.
            desc: What is done in the block, for the debug log.
        """
        if self.world_size == 1:
            yield
            return
        # Not at the top: arguments are read and checked in programs that never load torch.
        import torch.distributed as dist  # noqa: PLC0415

        is_first = (self.local_process_index if local else self.process_index) == 0
        if not is_first:
            logger.debug("process %d waits for the first process: %s", self.process_index, desc)
            dist.barrier()
        try:
            yield
        finally:
            if is_first:
                logger.debug("process %d lets the others go on: %s", self.process_index, desc)
                dist.barrier()


@functools.cache  # asked for all the time, and the same throughout the process
def _device_once(use_cpu: bool, local_process_index: int) -> torch.device:
    return choose_device(use_cpu, local_process_index)


def _is_of_slurm() -> bool:
    """Return whether Slurm has started several processes, and nobody else has given them numbers."""
    return not read_int("WORLD_SIZE", 0) and read_int("SLURM_STEP_NUM_TASKS", 1) > 1
