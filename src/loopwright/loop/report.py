"""Keep the sums between two log lines, and make the lines.

The mean loss of a line is over the steps since the line before. A step whose loss is not finite never counts as a
number: with `logging_nan_inf_filter` the mean is over the others, and the line says how many were left out
(`nonfinite_steps`); where none was finite, or without the filter, the mean is NaN.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from loopwright.runtime.ranks import Ranks

# Steps of which a process keeps its own loss until all take the mean.
_STEPS_KEPT = 1024


@dataclass
class _Sums:
    """Loss added up over finite steps, and how many steps there were of either kind."""

    loss: float = 0.0
    finite: int = 0
    nonfinite: int = 0

    def add(self, other: _Sums) -> None:
        self.loss += other.loss
        self.finite += other.finite
        self.nonfinite += other.nonfinite

    def take(self, loss: float) -> None:
        if math.isfinite(loss):
            self.loss += loss
            self.finite += 1
        else:
            self.nonfinite += 1

    def mean(self, *, only_finite: bool) -> float:
        if self.finite == 0 or (self.nonfinite and not only_finite):
            return math.nan
        return self.loss / self.finite


@dataclass
class Interval:
    """The sums between two log lines, as far as they are known.

    Attributes:
        sums: Known already.
        on_device: Of the others the loss, and how many were finite, of shape (2,); None where there are none.
        num_on_device: How many steps those are.
    """

    sums: _Sums
    on_device: torch.Tensor | None = None
    num_on_device: int = 0

    def settle(self, numbers: Sequence[float] | None = None) -> None:
        """Take in what is on the device: `numbers`, or else by waiting for it."""
        if self.on_device is None:
            return
        loss, finite = self.on_device.tolist() if numbers is None else numbers
        self.sums.add(_Sums(loss, int(finite), self.num_on_device - int(finite)))
        self.on_device, self.num_on_device = None, 0


class LossWindow:
    """Sums of the loss since the last log line, and since training began.

    On an accelerator the sums stay on the device, so that no step waits for it; reading them does. In a training of
    several processes each keeps its losses, step by step, until all together take their means: at every line, and
    where `_STEPS_KEPT` are there. A step at which any process's loss isn't finite isn't.

    Arguments:
        device: Where the losses are.
        only_finite: `logging_nan_inf_filter`.
        ranks: The processes that train together.
    """

    def __init__(self, device: torch.device, *, only_finite: bool, ranks: Ranks | None = None) -> None:
        self.only_finite = only_finite
        self._window = _Sums()
        self._before = _Sums()
        self._on_device: torch.Tensor | None = None
        self._num_on_device = 0
        self._ranks = ranks if ranks is not None and ranks.are_many else None
        self._own = torch.zeros(0 if self._ranks is None else _STEPS_KEPT, device=device, dtype=torch.float64)
        self._num_own = 0
        if self._ranks is None and device.type != "cpu":
            # MPS has no float64.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._on_device = torch.zeros(2, device=device, dtype=dtype)

    def add(self, loss: torch.Tensor) -> None:
        """Take the loss of one optimizer update, a zero-dimensional tensor."""
        if self._on_device is not None:
            self._num_on_device += 1
            finite = torch.isfinite(loss)
            self._on_device[0] += torch.where(finite, loss, 0.0)
            self._on_device[1] += finite
            return
        if self._ranks is not None:
            self._own[self._num_own] = loss
            self._num_own += 1
            if self._num_own == len(self._own):
                self._take_means(self._ranks)
            return
        self._window.take(loss.item())

    def _take_means(self, ranks: Ranks) -> None:
        """Add the means over all processes of the losses that each has kept; all come here at the same step."""
        losses = ranks.sum(self._own[: self._num_own].clone()) / ranks.size
        self._num_own = 0
        for loss in losses.tolist():
            self._window.take(loss)

    def begin_next(self) -> Interval:
        """Return the window's sums, wherever they are, and begin the next window."""
        if self._ranks is not None and self._num_own:
            self._take_means(self._ranks)
        interval = Interval(self._window)
        if self._on_device is not None and self._num_on_device:
            interval.on_device, interval.num_on_device = self._on_device.clone(), self._num_on_device
            self._on_device.zero_()
            self._num_on_device = 0
        self._window = _Sums()
        return interval

    def take(self, interval: Interval) -> dict[str, float]:
        """Return the entries of the log line of `interval`; waits for what is still on the device."""
        interval.settle()
        self._before.add(interval.sums)
        return self._entries(interval.sums, "")

    def _settle(self) -> None:
        """Bring what is still on the device over; waits for it."""
        interval = self.begin_next()
        interval.settle()
        self._window = interval.sums

    def overall(self) -> dict[str, float]:
        """Return the entries for the whole training."""
        self._settle()
        total = _Sums()
        total.add(self._before)
        total.add(self._window)
        if total.finite + total.nonfinite == 0:
            return {"train_loss": 0.0}
        return self._entries(total, "train_")

    def _entries(self, sums: _Sums, prefix: str) -> dict[str, float]:
        entries: dict[str, float] = {f"{prefix}loss": sums.mean(only_finite=self.only_finite)}
        if sums.nonfinite:
            entries[f"{prefix}nonfinite_steps"] = sums.nonfinite
        return entries

    def state(self) -> dict[str, Any]:
        """Return the sums, JSON-able and exact."""
        self._settle()
        return {"window": vars(self._window).copy(), "before": vars(self._before).copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._window = _Sums(**state["window"])
        self._before = _Sums(**state["before"])


def speed_metrics(
    split: str,
    start_time: float,
    num_samples: float | None = None,
    num_steps: float | None = None,
    num_tokens: float | None = None,
) -> dict[str, float]:
    """Return `<split>_runtime` in seconds since `start_time` (of `time.time`), and what was done per second."""
    runtime = time.time() - start_time
    metrics = {f"{split}_runtime": round(runtime, 4)}
    if runtime > 0:
        if num_samples is not None:
            metrics[f"{split}_samples_per_second"] = round(num_samples / runtime, 3)
        if num_steps is not None:
            metrics[f"{split}_steps_per_second"] = round(num_steps / runtime, 3)
        if num_tokens is not None:
            metrics[f"{split}_tokens_per_second"] = round(num_tokens / runtime, 3)
    return metrics
