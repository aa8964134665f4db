"""`loopwright runs`: list the runs of a directory, their attempts, and what is undelivered."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loopwright.delivery.store import standing_of
from loopwright.errors import JournalNotFound
from loopwright.journal.reader import Attempt, JournalReader, find_journals
from loopwright.records import Kind, Run, Status

_STYLES = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.STOPPED: "green",
    Status.FAILED: "red",
    Status.KILLED: "red",
    Status.INTERRUPTED: "yellow",
    Status.PREEMPTED: "yellow",
}


def runs(
    directory: Annotated[Path, typer.Argument(help="An output directory, or one that holds several.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List runs, their attempts and states, and what their trackers have not got yet."""
    found = [described for place in _journals(directory) for described in _describe(place)]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console()
    for run in found:
        console.print(_title(run), _table(run), _caption(run), sep="\n", soft_wrap=True)
        console.print()


def _journals(directory: Path) -> list[Path]:
    found = find_journals(directory)
    if not found:
        raise JournalNotFound(f"{directory} holds no journal, nor does a folder in it")
    return found


def _describe(output_dir: Path) -> list[dict[str, Any]]:
    with JournalReader(output_dir) as reader:
        return [_describe_run(reader, output_dir, run) for run in reader.runs()]


def _describe_run(reader: JournalReader, output_dir: Path, run: Run) -> dict[str, Any]:
    attempts = reader.attempts(run.id)
    lines = reader.records(run.id, kinds=[Kind.LOG])
    trackers = []
    for entry in reader.sinks(run.id):
        delivered, left = standing_of(reader, entry)
        trackers.append({"name": entry.tracker, "undelivered": left, "error": delivered.error})
    return {
        "id": run.id,
        "name": run.name,
        "directory": str(output_dir),
        "created_at": run.created_at,
        "parent": run.parent_id,
        "parent_step": run.parent_step,
        "trial": run.trial_name,
        "trial_parameters": run.trial_parameters,
        "log_lines": len(lines),
        "last_step": lines[-1].step if lines else None,
        "attempts": [_describe_attempt(attempt) for attempt in attempts],
        "trackers": trackers,
    }


def _describe_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "purpose": attempt.purpose,
        "first_step": attempt.first_step,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "status": str(attempt.status),
        "reason": attempt.reason,
        "host": attempt.host,
        "pid": attempt.pid,
    }


def _title(run: dict[str, Any]) -> Text:
    title = f"{run['directory']} · run {run['id'][:8]}" + (f" · {run['name']}" if run["name"] else "")
    if any(attempt["purpose"] == "search" for attempt in run["attempts"]):
        title += " · search"
    if run["trial"]:
        title += f" · trial {run['trial']}"
    if run["parent"] and run["trial"] and run["parent_step"] is None:
        title += f" of search {run['parent'][:8]}"
    elif run["parent"]:
        title += f" · branched off {run['parent'][:8]} at step {run['parent_step']}"
    return Text(title, style="bold")


def _table(run: dict[str, Any]) -> Table:
    table = Table()
    for name, justify in (("attempt", "right"), ("from step", "right"), ("began", "left"), ("took", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("status")
    for attempt in run["attempts"]:
        status = Status(attempt["status"])
        words = f"{status}: {attempt['reason']}" if attempt["reason"] else str(status)
        table.add_row(
            str(attempt["number"]),
            str(attempt["first_step"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["started_at"])),
            _duration(attempt),
            Text(words, style=_STYLES[status]),
        )
    return table


def _caption(run: dict[str, Any]) -> Text:
    text = Text(f"{run['log_lines']} log line(s)", style="dim")
    if run["last_step"] is not None:
        text.append(f", the last at step {run['last_step']}")
    for tracker in run["trackers"]:
        left = tracker["undelivered"]
        text.append(f"\n{tracker['name']}: ")
        text.append(
            "everything delivered" if not left else f"{left} undelivered", style="green" if not left else "yellow"
        )
        if tracker["error"] and left:
            text.append(f" ({tracker['error']})")
    if any(tracker["undelivered"] for tracker in run["trackers"]):
        text.append(f"\ndeliver them: loopwright sync {run['directory']}")
    return text


def _duration(attempt: dict[str, Any]) -> str:
    if attempt["ended_at"] is None:
        return ""
    seconds = max(attempt["ended_at"] - attempt["started_at"], 0.0)
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02}:{int(seconds) % 60:02}" if seconds >= 60 else f"{seconds:.1f} s"
