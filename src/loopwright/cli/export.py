"""`loopwright export`: a run's log lines as a table, for other programs.

    step,epoch,time,attempt,kind,loss,learning_rate,eval_loss,…

A row for each log line, a column for each name in them; what a line doesn't have is empty. NaN and the infinities stay
what they are: csv has nan, inf and -inf, JSON the texts that `--json` has everywhere, Parquet the numbers.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from loopwright._support.extras import require
from loopwright._support.files import write_bytes_atomically
from loopwright.cli.choice import Chosen, RunId, view_of
from loopwright.cli.output import to_json
from loopwright.errors import ArgumentError
from loopwright.report.views import RunView

_FIRST = ("step", "time", "attempt", "kind")


class Format(StrEnum):
    """What `export` writes."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def export(
    run: Chosen = ".",
    run_id: RunId = None,
    form: Annotated[
        Format, typer.Option("--format", help="csv; json, one object a line; or parquet (the extra parquet).")
    ] = Format.CSV,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file; by default to stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE where it is there already.")] = False,
) -> None:
    """Write a run's log lines, evaluations and predictions as a table: a row for each, a column for each metric."""
    rows = rows_of(view_of(run, run_id))
    if output is None and form is Format.PARQUET and sys.stdout.isatty():
        raise ArgumentError("--format parquet writes bytes, which no terminal shows: give --output FILE, or a pipe")
    if output is not None:
        _require_free(output, force=force)
    content = _WRITERS[form](rows)
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        write_bytes_atomically(output, content)
    except OSError as error:
        raise ArgumentError(f"--output {output}: can't be written: {error.strerror}") from error
    sys.stderr.write(f"{len(rows)} rows are in {output}\n")


def rows_of(view: RunView) -> list[dict[str, Any]]:
    """Return a run's log lines and predictions as they came, each with its step, time, attempt and kind."""
    records = sorted((*view.lines, *view.predictions), key=lambda record: record.sequence)
    # A metric may have one of these names: the record's own comes first, and the metric's with a line under it.
    return [
        {
            "step": record.step,
            "time": record.time,
            "attempt": record.attempt,
            "kind": str(record.kind),
            **{f"{name}_" if name in _FIRST else name: value for name, value in record.values.items()},
        }
        for record in records
    ]


def _require_free(output: Path, *, force: bool) -> None:
    if output.is_dir():
        raise ArgumentError(f"--output {output} is a directory: give a file")
    if not output.parent.is_dir():
        raise ArgumentError(f"--output {output}: there is no directory {output.parent}")
    if output.exists() and not force:
        raise ArgumentError(f"--output {output} is there already: give another name, or --force")


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of all rows' values in the order in which they first came."""
    return list(dict.fromkeys([*_FIRST, *(name for row in rows for name in row)]))


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    stream = io.StringIO(newline="")
    columns = columns_of(rows)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return stream.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """Return what stands for `value` in csv: nothing for None, JSON for lists and dicts, all digits of a number."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{to_json(row, indent=None)}\n" for row in rows).encode()


def _as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Return a Parquet file; a column that holds more than numbers, or more than texts, is texts of JSON."""
    pyarrow = require("pyarrow", extra="parquet", purpose="--format parquet")
    parquet = require("pyarrow.parquet", extra="parquet", purpose="--format parquet")
    columns = {name: [row.get(name) for row in rows] for name in columns_of(rows)}
    table = pyarrow.table({name: _column(pyarrow, values) for name, values in columns.items()})
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    return stream.getvalue()


def _column(pyarrow: Any, values: list[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return pyarrow.array([None if value is None else float(value) for value in values], from_pandas=False)
    if len(kinds) <= 1 and not kinds & {list, dict}:
        try:
            return pyarrow.array(values, from_pandas=False)
        except (OverflowError, ValueError):  # whole numbers of more than 64 bits; texts that are no UTF-8
            pass
    return pyarrow.array([None if value is None else to_json(value, indent=None) for value in values])


_WRITERS: Mapping[Format, Callable[[list[dict[str, Any]]], bytes]] = {
    Format.CSV: _as_csv,
    Format.JSON: _as_json_lines,
    Format.PARQUET: _as_parquet,
}
