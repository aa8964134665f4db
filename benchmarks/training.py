"""One timed training in a worker, the unit of the suites that time steps.

How a step is timed, the same for every implementation: the clocks are read when the model's forward begins for step
w + 1 and for step w + n + 1 (see `workloads.Stopwatch`), and the difference is divided by n. Between those points lie
n whole turns of the loop, everything in them: next batch, forward, backward, clipping, optimizer, schedule, callbacks,
bar, and n / log_every log lines. Construction, the first steps (w of them) and the end are outside. A library that
fetches batches ahead does so at both points. CPU time is the whole process's, threads included, and, apart from that,
the loop's thread's own. Other processes, such as Loopwright's delivery, are in neither.
"""

from __future__ import annotations

import gc
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.process_memory import peak_mb, reset_peak, resident_mb
from benchmarks.recipe import SEED, Job, collate
from benchmarks.settings import Setting
from benchmarks.workloads import WORKLOADS, Stopwatch, TimedModel

NUM_WARMUP_STEPS = 30
# What `Stopwatch` reads, in its order.
CLOCKS = ("wall_ms", "cpu_ms", "thread_ms")


def timed_training(
    implementation: str, setting: dict[str, Any], num_steps: int, num_warmup_steps: int = NUM_WARMUP_STEPS
) -> dict[str, float]:
    """Train in this process and return the milliseconds of one step, by each clock, taken over `num_steps` steps."""
    job = _make_job(Setting(**setting), num_warmup_steps + num_steps + 1)
    first = num_warmup_steps * job.setting.accumulation + 1
    last = first + num_steps * job.setting.accumulation
    job.model.stopwatch = stopwatch = Stopwatch([first, last])
    # What the last round left is not this one's to clear away.
    gc.collect()
    IMPLEMENTATIONS[implementation].train(job)
    begin, end = stopwatch.readings
    return {clock: (after - before) * 1e3 / num_steps for clock, before, after in zip(CLOCKS, begin, end, strict=True)}


def memory_of_training(implementation: str, setting: dict[str, Any], marks: list[int]) -> dict[str, float]:
    """Train in this process, which has done nothing yet, and return what memory that took, in megabytes.

    Arguments:
        implementation: Which.
        setting: The case.
        marks: The two steps, ascending, between which growth is looked for.

    Returns:
        "import_mb" of the library over torch, "peak_mb" of the training over what the process had before it, and
        "growth_mb" from the one mark to the other.
    """
    job = _make_job(Setting(**setting), marks[-1] + 1)
    before = resident_mb()
    IMPLEMENTATIONS[implementation].load()
    gc.collect()
    imported = reset_peak()
    job.model.stopwatch = stopwatch = Stopwatch(marks, read=resident_mb)
    IMPLEMENTATIONS[implementation].train(job)
    begin, end = stopwatch.readings
    return {"import_mb": imported - before, "peak_mb": peak_mb() - imported, "growth_mb": end - begin}


def final_loss(implementation: str, setting: dict[str, Any], num_steps: int) -> float:
    """Train in this process and return the trained model's loss on fixed examples."""
    job = _make_job(Setting(**setting), num_steps)
    IMPLEMENTATIONS[implementation].train(job)
    expected = num_steps * job.setting.accumulation
    if job.model.stopwatch.count != expected:
        raise RuntimeError(f"{implementation} did {job.model.stopwatch.count} forward passes instead of {expected}")
    return _loss_of(job.model.eval(), job)


@torch.no_grad()
def _loss_of(model: TimedModel, job: Job) -> float:
    # In double precision: the comparison is of the weights, not of how a sum rounds.
    batch = collate([job.dataset[index] for index in range(64)])
    inputs = batch["inputs"]
    return float(model.double()(inputs.double() if inputs.is_floating_point() else inputs, batch["labels"])["loss"])


def _make_job(setting: Setting, steps: int) -> Job:
    scratch = _prepare_process()
    workload = WORKLOADS[setting.workload]
    torch.manual_seed(SEED)
    return Job(
        setting=setting,
        model=workload.make_model(),
        dataset=workload.make_examples(steps * workload.batch_size * setting.accumulation * setting.ranks),
        batch_size=workload.batch_size,
        steps=steps,
        output_dir=Path(tempfile.mkdtemp(dir=scratch.name)),
    )


@cache
def _prepare_process() -> tempfile.TemporaryDirectory[str]:
    """Make torch run on one thread, and a directory that lives as long as the process; once per process."""
    torch.set_num_threads(1)
    return tempfile.TemporaryDirectory(prefix="loopwright-benchmark-")
