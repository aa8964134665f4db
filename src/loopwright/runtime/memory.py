"""Measure the memory of constructing, training, evaluating and predicting, for `skip_memory_metrics=False`.

The names are transformers': `<stage>_mem_cpu_alloc_delta` is what the process holds more at the stage's end than at its
beginning, `<stage>_mem_cpu_peaked_delta` how much further up it was meanwhile, both in bytes; `gpu` beside `cpu` where
torch computes on an accelerator. Nothing is sampled: the system and torch keep the peaks. On Linux that of the process
is set back when a stage begins (`/proc/self/clear_refs`); where that is forbidden, a peak is told only if it went
beyond all earlier ones.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.runtime.device import empty_cache, is_accelerator

logger: Logger = get_logger(__name__)

_PROCESS = Path("/proc/self")
_SET_PEAK_BACK = "5"  # proc_pid_clear_refs(5)


@dataclass
class _Begun:
    stage: str
    cpu: int | None
    peak_before: int | None
    gpu: int | None


class MemoryMeter:
    """Measures one stage at a time; a stage inside another, an evaluation in training, isn't measured.

    Arguments:
        device: Where torch computes.
        is_on: Whether to measure at all; otherwise nothing here does anything.
    """

    def __init__(self, device: torch.device, *, is_on: bool) -> None:
        self.device = device
        self.is_on = is_on
        self._begun: _Begun | None = None
        self._of_construction: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside; `add_to` reports it while that is going on."""
        if not self.is_on or self._begun is not None:
            yield
            return
        self.begin(name)
        try:
            yield
        finally:
            self._begun = None

    def begin(self, stage: str) -> Self:
        """Begin a stage, and return the meter."""
        if not self.is_on:
            return self
        gc.collect()
        empty_cache(self.device)
        is_reset = self._reset_peaks()
        held, peak = _of_process()
        self._begun = _Begun(stage, held, None if is_reset else peak, self._allocated())
        if held is None:
            warn_once(logger, "skip_memory_metrics=False: there is no /proc here, so the process's memory isn't told")
        return self

    def end_construction(self) -> None:
        """Keep the measures of the stage begun, for the first one that is reported."""
        begun = self._begun
        if begun is None:
            return
        self._of_construction = self._measure(begun)
        self._of_construction |= {
            f"before_{begun.stage}_mem_{kind}": held
            for kind, held in (("cpu", begun.cpu), ("gpu", begun.gpu))
            if held is not None
        }
        self._begun = None

    def add_to(self, metrics: dict[str, Any], stage: str) -> None:
        """Add the measures of `stage` up to now, where it is the one being measured."""
        begun = self._begun
        if begun is None or begun.stage != stage:
            return
        metrics |= self._of_construction
        self._of_construction = {}
        metrics |= self._measure(begun)

    def _measure(self, begun: _Begun) -> dict[str, int]:
        gc.collect()
        empty_cache(self.device)
        measures: dict[str, int] = {}
        held, peak = _of_process()
        if begun.cpu is not None and held is not None:
            measures[f"{begun.stage}_mem_cpu_alloc_delta"] = held - begun.cpu
            if peak is not None and (begun.peak_before is None or peak > begun.peak_before):
                measures[f"{begun.stage}_mem_cpu_peaked_delta"] = max(0, peak - held)
        now = self._allocated()
        if begun.gpu is not None and now is not None:
            measures[f"{begun.stage}_mem_gpu_alloc_delta"] = now - begun.gpu
            if self.device.type != "mps":  # which keeps no peak
                peaked = torch.get_device_module(self.device).max_memory_allocated(self.device)
                measures[f"{begun.stage}_mem_gpu_peaked_delta"] = max(0, peaked - now)
        return measures

    def _allocated(self) -> int | None:
        if not is_accelerator(self.device):
            return None
        module = torch.get_device_module(self.device)
        if self.device.type == "mps":
            return int(module.current_allocated_memory())
        return int(module.memory_allocated(self.device))

    def _reset_peaks(self) -> bool:
        """Set the peaks back; return whether the process's could be."""
        if is_accelerator(self.device) and self.device.type != "mps":
            torch.get_device_module(self.device).reset_peak_memory_stats(self.device)
        try:
            (_PROCESS / "clear_refs").write_text(_SET_PEAK_BACK, encoding="ascii")
        except OSError:
            return False
        return True


def _of_process() -> tuple[int | None, int | None]:
    """Return what the process holds in memory, and the most it has held, in bytes."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, None
    parts = (line.partition(":") for line in lines if line.endswith(" kB"))
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in parts}
    return sizes.get("VmRSS"), sizes.get("VmHWM")
