"""What a record of the journal costs, timed in a worker: the recorder without a training around it.

Each record is timed by itself; reading the clock twice takes a tenth of a microsecond.
"""

from __future__ import annotations

import gc
import json
import os
import random
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from loopwright.journal.recorder import Recorder
from loopwright.journal.values import encode
from loopwright.records import Kind, Run

_NUM_DISTINCT_LINES = 1024
_NUM_WARMUP_RECORDS = 10
_NUM_AT_AN_END = 1000

Write = Callable[[int, dict[str, float]], object]


def time_recorder(kind: str, num_records: int) -> dict[str, float]:
    """Record log lines in a journal of `kind`, "sqlite" or "lines", and return what they cost."""
    os.environ["LOOPWRIGHT_JOURNAL"] = kind
    with _directory() as directory:
        recorder = Recorder(directory)
        recorder.begin_attempt(Run(id="a" * 32, output_dir=str(directory), created_at=1.0), purpose="training")
        found = _time_each(lambda step, line: recorder.record(Kind.LOG, step, line), num_records)
        if recorder.position != num_records:
            raise RuntimeError(f"{recorder.position} records were written instead of {num_records}")
        began = time.perf_counter()
        recorder.sync()
        found["sync_ms"] = (time.perf_counter() - began) * 1e3
        found["bytes_after_sync"] = _size(directory) / num_records
        recorder.close()
        return {**found, "bytes": _size(directory) / num_records}


def time_plain_file(num_records: int) -> dict[str, float]:
    """Append log lines as JSON to a plain file, flushing each: the limit."""
    with _directory() as directory, (directory / "lines.jsonl").open("w", encoding="utf-8") as file:

        def write(step: int, line: dict[str, float]) -> None:
            file.write(json.dumps({"step": step, "time": time.time(), **line}) + "\n")
            file.flush()

        found = _time_each(write, num_records)
        began = time.perf_counter()
        os.fsync(file.fileno())
        found["sync_ms"] = (time.perf_counter() - began) * 1e3
        return {**found, "bytes_after_sync": _size(directory) / num_records, "bytes": _size(directory) / num_records}


def time_encoding(num_records: int) -> dict[str, float]:
    """Make the text of log lines' values, and write nothing."""
    return _time_each(lambda step, line: encode(line), num_records)


def _time_each(write: Write, num_records: int) -> dict[str, float]:
    lines = _make_lines()
    nanoseconds = array("q", bytes(8 * num_records))
    clock = time.perf_counter_ns
    gc.collect()
    began, began_cpu = time.perf_counter(), time.process_time()
    for number in range(num_records):
        before = clock()
        write(number + 1, lines[number % _NUM_DISTINCT_LINES])
        nanoseconds[number] = clock() - before
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "us": seconds / num_records * 1e6,
        "cpu_us": cpu_seconds / num_records * 1e6,
        **_summarize([nanosecond / 1e3 for nanosecond in nanoseconds]),
    }


def _summarize(microseconds: list[float]) -> dict[str, float]:
    num_at_an_end = max(1, min(_NUM_AT_AN_END, len(microseconds) // 4))
    at_begin = microseconds[_NUM_WARMUP_RECORDS : _NUM_WARMUP_RECORDS + num_at_an_end]
    thousandths = quantiles(microseconds, n=1000, method="inclusive")
    return {
        "begin_us": median(at_begin),
        "end_us": median(microseconds[-num_at_an_end:]),
        "p50_us": thousandths[499],
        "p99_us": thousandths[989],
        "p999_us": thousandths[998],
        "max_us": max(microseconds),
    }


def _make_lines() -> list[dict[str, float]]:
    """Return log lines as a training makes them, with all their digits."""
    generator = random.Random(0)
    return [
        {
            "loss": 2.0 * generator.random(),
            "grad_norm": 1.5 * generator.random(),
            "learning_rate": 5e-5 * generator.random(),
            "epoch": 3.0 * generator.random(),
        }
        for _ in range(_NUM_DISTINCT_LINES)
    ]


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="loopwright-benchmark-") as name:
        yield Path(name)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())
