"""`loopwright tail`: follow a training that another process runs, line by line, until it ends.

It only reads: it takes no lock, and looks twice a second whether the journal has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from loopwright.cli.choice import AsJson, Chosen, RunId
from loopwright.cli.output import STATUS_STYLES, number, shown, to_json
from loopwright.journal.ownership import is_owned
from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import LOCK_NAME
from loopwright.records import Decision, Kind, Record, Status
from loopwright.report.reading import parse_run, read_run

_SECONDS_BETWEEN_LOOKS = 0.5
_KINDS = (Kind.LOG, Kind.PREDICTION, Kind.DECISION)
_LINES = (Kind.LOG, Kind.PREDICTION)


def tail(
    run: Chosen = ".",
    run_id: RunId = None,
    lines: Annotated[int, typer.Option(min=0, help="How many of the lines that are there already to begin with.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Print a training's log lines as they come, until it ends; of another process, which it leaves undisturbed.

    With --json each line is an object, the last one how it ended. Ends with 0 where the training ended as it was meant
    to, and on Ctrl-C; with 1 where it failed, was interrupted or was killed.
    """
    view = read_run(*parse_run(run, run_id))
    print_line = _print_json if as_json else _Printer()
    try:
        with JournalReader(view.directory) as reader:
            status, reason = _follow(reader, view.directory, view.run.id, lines, print_line)
    except KeyboardInterrupt:
        return
    if as_json:
        typer.echo(to_json({"kind": "end", "status": str(status), "reason": reason}, indent=None))
    else:
        Console().print(shown(f"{status}: {reason}" if reason else status, STATUS_STYLES[status]), soft_wrap=True)
    if not status.is_success:
        raise typer.Exit(1)


def _follow(
    reader: JournalReader, directory: Path, run_id: str, num_lines: int, print_line: Callable[[Record], None]
) -> tuple[Status, str | None]:
    """Print records until the run has ended, and return how, and why."""
    found = reader.records(run_id, kinds=_KINDS)
    begins = [record.sequence for record in found if record.kind in _LINES][-num_lines:] if num_lines else []
    seen = begins[0] - 1 if begins else found[-1].sequence if found and not num_lines else 0
    for _ in _looks(reader):
        # Asked before the records are read: those of one that has ended are all there then.
        ending = _ending(reader, directory, run_id)
        for record in reader.records(run_id, after=seen, kinds=_KINDS):
            print_line(record)
            seen = record.sequence
        if ending is not None:
            return ending
    raise AssertionError("it looks until the run has ended")


def _looks(reader: JournalReader) -> Iterator[None]:
    """Yield at once, then whenever it is worth to look again: something was written, or a while has passed."""
    before, since = reader.change_counter(), time.monotonic()
    yield
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        now = reader.change_counter()
        if now != before or time.monotonic() - since > 2 * _SECONDS_BETWEEN_LOOKS:
            before, since = now, time.monotonic()
            yield


def _ending(reader: JournalReader, directory: Path, run_id: str) -> tuple[Status, str | None] | None:
    """Return how the run has ended, and why; None while a process is at it, or nobody can tell."""
    is_gone = is_owned(directory / LOCK_NAME) is False  # before the attempt is read: it may end in between
    attempts = reader.attempts(run_id)
    if not attempts:
        return None
    newest = attempts[-1]
    if newest.status is not Status.RUNNING:
        return newest.status, newest.reason
    return (Status.KILLED, f"its process {newest.pid} on {newest.host} is gone") if is_gone else None


def _print_json(record: Record) -> None:
    about = {"kind": str(record.kind), "step": record.step, "time": record.time, "attempt": record.attempt}
    typer.echo(to_json({**about, "values": record.values}, indent=None))


class _Printer:
    """Prints records for people."""

    def __init__(self) -> None:
        self._console = Console()

    def __call__(self, record: Record) -> None:
        """Print one."""
        if record.kind is Kind.DECISION:
            said = {name: str(record.values.get(name)) for name in ("callback", "event", "flag")}
            decision = Decision(record.step, **said, value=bool(record.values.get("value")))
            if decision.stops_training:
                self._console.print(shown(decision, "yellow"), soft_wrap=True)
            return
        text = Text(f"step {record.step}", style="bold")
        for name, value in record.values.items():
            text.append_text(shown(f"  {name} ", "dim")).append_text(shown(number(value), "not dim not bold"))
        self._console.print(text, soft_wrap=True)
