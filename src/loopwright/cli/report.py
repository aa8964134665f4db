"""`loopwright report`: write what is known of runs into one HTML file that needs nothing else."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from loopwright.report.page import write_report
from loopwright.report.reading import parse_run, read_run
from loopwright.report.views import RunView

REPORT_NAME = "report.html"


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Output directories; DIR:ID for another run than the newest, by the first digits of its id.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=f"The file; else {REPORT_NAME} in the directory of the first run."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Which run of the directory, where one is given.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte of the checkpoints.")] = False,
    opens: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write a report of runs: curves, timeline, costs, trackers, arguments. One HTML file, no network needed."""
    if run_id is not None and len(runs) > 1:
        raise typer.BadParameter("says which run of one directory; write DIR:ID for several", param_hint="--run")
    views: list[RunView] = []
    for text in runs:
        directory, named = parse_run(text, run_id)
        view = read_run(directory, named, verify=verify)
        if all(view.run.id != other.run.id for other in views):
            views.append(view)
    path = write_report(views, output or views[0].directory / REPORT_NAME)
    typer.echo(str(path))
    if opens:
        webbrowser.open(path.resolve().as_uri())
