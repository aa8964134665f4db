"""What a record of the journal costs, in both kinds of file, beside a line of JSON in a plain file: the limit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

from rich.console import RenderableType

from benchmarks.rounds import Round, alternate, spread
from benchmarks.settings import Options
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker

ABOUT = "records per second of the journal, and what one costs"

_NUM_ROUNDS = {False: 5, True: 3}
_RECORDS_PER_SECOND = {False: 100_000, True: 1_000_000}
_ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "journal.db (SQLite)": ("time_recorder", {"kind": "sqlite"}),
    "journal.jsonl (lines)": ("time_recorder", {"kind": "lines"}),
    "plain file, flushed": ("time_plain_file", {}),
    "values' text alone": ("time_encoding", {}),
}
_MEDIANS = ("us", "cpu_us", "begin_us", "end_us", "p50_us", "p99_us", "p999_us")


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Record log lines: the same whatever implementations are asked for."""
    num_rounds = options.num_rounds or _NUM_ROUNDS[options.full]
    num_records = max(20, int(_RECORDS_PER_SECOND[options.full] * options.round_seconds))
    say(f"{len(_ENTRIES)} ways, {num_rounds} rounds of {num_records:,} records")
    with ExitStack() as stack:
        entries = {
            name: partial(_ask, stack.enter_context(Worker()), function, {**arguments, "num_records": num_records})
            for name, (function, arguments) in _ENTRIES.items()
        }
        measured = alternate(entries, num_rounds)
    return {
        "num_records": num_records,
        "num_rounds": num_rounds,
        "directory": tempfile.gettempdir(),
        "rows": {name: _summarize(rounds) for name, rounds in measured.rounds.items()},
        "failed": measured.failed,
    }


def _ask(worker: Worker, function: str, arguments: Mapping[str, Any]) -> Round:
    answer: Round = worker.ask(f"benchmarks.journal:{function}", **arguments)
    return answer


def _summarize(rounds: list[Round]) -> dict[str, Any]:
    return {
        **{name: spread(found[name] for found in rounds) for name in _MEDIANS},
        "max_us": max(found["max_us"] for found in rounds),
        **{
            name: median(found[name] for found in rounds) if name in rounds[0] else None
            for name in ("sync_ms", "bytes_after_sync", "bytes")
        },
        "rounds": rounds,
    }


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table of speeds, and that of single records and of the disk."""
    number = f"{results['num_records']:,}"
    rows = results["rows"].items()
    yield make_table(
        f"records of a log line of 4 numbers ({results['num_rounds']} rounds of {number}, in {results['directory']})",
        ("", "records/s", "µs each", "CPU µs each", "µs at 10", f"µs at {number}"),
        [_speed_cells(name, row) for name, row in rows],
        caption=(
            "Median [quartiles] of the rounds. At 10 and at the end: the median of the first thousand after ten, and "
            "of the last (fewer of a short run). CPU is the process's, its clean-up thread included."
        ),
    )
    yield make_table(
        "one record, and the disk",
        ("", "p50 µs", "p99 µs", "p99.9 µs", "max ms", "sync ms", "MB per million", "closed"),
        [_record_cells(name, row) for name, row in rows],
        caption=(
            "Median of the rounds; max: of all. sync: once, after the last record. MB per million records: all files "
            "after that sync, SQLite's write-ahead log among them, and once the journal is closed."
        ),
    )
    yield from failure_lines(results["failed"])


def _speed_cells(name: str, row: Mapping[str, Any]) -> list[str]:
    return [
        name,
        f"{1e6 / row['us']['median']:,.0f}",
        with_quartiles(row["us"], 1),
        f"{row['cpu_us']['median']:.1f}",
        with_quartiles(row["begin_us"], 1),
        with_quartiles(row["end_us"], 1),
    ]


def _record_cells(name: str, row: Mapping[str, Any]) -> list[str]:
    return [
        name,
        *(f"{row[one]['median']:.1f}" for one in ("p50_us", "p99_us", "p999_us")),
        f"{row['max_us'] / 1e3:.1f}",
        *("-" if row[one] is None else f"{row[one]:.0f}" for one in ("sync_ms", "bytes_after_sync", "bytes")),
    ]
