"""How long each log line of a training holds the loop up, in a worker: the median, and the slowest of a thousand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import loopwright
from benchmarks.implementations.loopwright import UntilTrackersAreOpen
from benchmarks.recipe import SEED, collate
from benchmarks.saving import Sidewise
from benchmarks.settings import DEAD
from benchmarks.slow_tracker import SlowTracker, refusing_port
from benchmarks.workloads import Examples

_WIDTH = 512
_STEPS_BETWEEN_SAVES = 10


class _Timed(loopwright.Trainer):
    """Notes how long each line takes, from its values to the journal, and whether a save was under way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds: list[tuple[float, bool]] = []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        is_writing = self.saving.is_writing
        started = perf_counter()
        super().log(logs, start_time)
        self.seconds.append((perf_counter() - started, is_writing))


def time_log_lines(num_steps: int, num_trackers: int, megabytes: float) -> dict[str, dict[str, float]]:
    """Train with a line at every step, shown nowhere, and saves beside; return the lines' microseconds.

    Arguments:
        num_steps: How many.
        num_trackers: Trackers whose service is dead.
        megabytes: Of the state that is saved, again and again.

    Returns:
        "alone" and "beside a save": "num_lines", "median_us", "p99_us" and "p999_us".
    """
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = Sidewise(_WIDTH, max(1, round(megabytes * 1e6 / 12 / (_WIDTH * (_WIDTH + 1)))))
    inputs = torch.randn(64, _WIDTH)
    port = refusing_port()
    with tempfile.TemporaryDirectory(prefix="loopwright-benchmark-") as directory:
        args = loopwright.TrainingArguments(
            str(Path(directory) / "out"),
            max_steps=num_steps,
            per_device_train_batch_size=1,
            logging_steps=1,
            save_steps=_STEPS_BETWEEN_SAVES,
            save_async=True,
            save_async_busy="skip",
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            tracker_close_timeout=0.5,
        )
        trackers = [SlowTracker(DEAD, port) for _ in range(num_trackers)]
        data = Examples(inputs, inputs[:, :10].argmax(-1), num_steps)
        trainer = _Timed(model, args, collate, data, callbacks=[*trackers, UntilTrackersAreOpen(num_trackers)])
        trainer.remove_callback(loopwright.PrinterCallback)
        trainer.train()
        trainer.reporting.close()
    lines = trainer.seconds[10:-1]  # the first ones warm up, the last is the training's whole
    return {
        name: _percentiles([seconds * 1e6 for seconds, was_writing in lines if was_writing is wanted])
        for name, wanted in (("alone", False), ("beside a save", True))
    }


def _percentiles(microseconds: list[float]) -> dict[str, float]:
    found = torch.tensor(microseconds or [float("nan")], dtype=torch.float64)
    median, p99, p999 = torch.quantile(found, torch.tensor([0.5, 0.99, 0.999], dtype=torch.float64)).tolist()
    return {"num_lines": len(microseconds), "median_us": median, "p99_us": p99, "p999_us": p999}
