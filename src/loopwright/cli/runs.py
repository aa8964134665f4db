"""`loopwright runs`: list the runs of a directory, their attempts, and what is undelivered."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loopwright.cli.choice import AsJson
from loopwright.cli.output import STATUS_STYLES, duration, number, printable, shortened, shown, to_json
from loopwright.cli.show import max_steps_of
from loopwright.records import Status
from loopwright.report.reading import find_runs
from loopwright.report.views import AttemptView, RunView


def runs(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An output directory, or one that holds several.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """List runs: status, steps, best metric, duration, attempts, and what their trackers have not got yet."""
    found = [describe_run(view) for view in find_runs(directory)]
    if as_json:
        typer.echo(to_json(found))
        return
    console = Console()
    for run in found:
        console.print(_title(run), soft_wrap=True)
        console.print(_summary(run), soft_wrap=True)
        console.print(_table(run))
        console.print(_caption(run), soft_wrap=True)
        console.print()


def describe_run(view: RunView) -> dict[str, Any]:
    """Return what is listed of a run, JSON-able."""
    run = view.run
    return {
        "id": run.id,
        "name": run.name,
        "directory": str(view.directory),
        "created_at": run.created_at,
        "parent": run.parent_id,
        "parent_step": run.parent_step,
        "trial": run.trial_name,
        "trial_parameters": run.trial_parameters,
        "status": str(view.status),
        "log_lines": len(view.lines),
        "last_step": view.lines[-1].step if view.lines else None,
        "max_steps": max_steps_of(view),
        "best": None if view.best is None else asdict(view.best),
        "seconds": view.seconds,
        "attempts": [_describe_attempt(one) for one in view.attempts],
        "trackers": [{"name": one.name, "undelivered": one.undelivered, "error": one.error} for one in view.trackers],
    }


def _describe_attempt(view: AttemptView) -> dict[str, Any]:
    attempt = view.attempt
    is_found_dead = view.status is not attempt.status
    return {
        "number": attempt.number,
        "purpose": attempt.purpose,
        "first_step": attempt.first_step,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "seconds": view.seconds,
        "status": str(view.status),
        "reason": "its process is gone" if is_found_dead else attempt.reason,
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
    return shown(title, "bold")


def _summary(run: dict[str, Any]) -> Text:
    status = Status(run["status"])
    text = Text(str(status), style=STATUS_STYLES[status])
    steps = f"step {run['last_step'] or 0}" + (f" of {run['max_steps']}" if run["max_steps"] else "")
    text.append(f" · {steps} · {duration(run['seconds'])}", style="default")
    if (best := run["best"]) is not None:
        text.append(
            f" · best {printable(best['name'])} {number(best['value'])} at step {best['step']}", style="default"
        )
    return text


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
            duration(attempt["seconds"]),
            shown(words, STATUS_STYLES[status]),
        )
    return table


def _caption(run: dict[str, Any]) -> Text:
    text = Text(f"{run['log_lines']} log line(s)", style="dim")
    if run["last_step"] is not None:
        text.append(f", the last at step {run['last_step']}")
    for tracker in run["trackers"]:
        left = tracker["undelivered"]
        text.append(f"\n{printable(tracker['name'])}: ")
        text.append(
            "everything delivered" if not left else f"{left} undelivered", style="green" if not left else "yellow"
        )
        if tracker["error"] and left:
            text.append(f" ({shortened(tracker['error'])})")
    if any(tracker["undelivered"] for tracker in run["trackers"]):
        text.append(f"\ndeliver them: loopwright sync {printable(run['directory'])}")
    return text
