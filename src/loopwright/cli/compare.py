"""`loopwright compare`: what two runs, or more, had differently, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loopwright.cli.choice import AsJson, complete_run, view_of
from loopwright.cli.output import duration, heading_of, number, shown, to_json
from loopwright.cli.plot import draw
from loopwright.cli.show import no_such_metric, titled
from loopwright.errors import ArgumentError
from loopwright.report.views import RunView

_MOST_RUNS = 26  # a letter for each
_ABSENT = object()


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Two runs or more, each an output directory, for its newest run, or DIR:ID.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="NAME", help="The metric to draw; by default the loss.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: the arguments that differ, their last metrics side by side, and their curves over each other."""
    if not 2 <= len(runs) <= _MOST_RUNS:
        raise typer.BadParameter(f"give 2 to {_MOST_RUNS} runs, not {len(runs)}", param_hint="RUN RUN...")
    views = [view_of(run) for run in runs]
    _require_different(runs, views)
    name = plot or _common_metric(views)
    if plot is not None and not any(plot in view.series for view in views):
        raise no_such_metric(plot, views)
    if as_json:
        typer.echo(to_json(_as_dict(views)))
        return
    letters = [chr(ord("a") + place) for place in range(len(views))]
    console = Console()
    console.print(_heads(views, letters))
    console.print()
    arguments = differing_arguments(views)
    if arguments:
        console.print(_table("Arguments that differ", "argument", arguments, letters))
    else:
        console.print(Text("the runs have the same arguments", style="dim"))
    console.print()
    console.print(_table("Last metrics", "metric", last_metrics(views), letters))
    if name is not None:
        console.print()
        _show_curves(console, views, letters, name)


def _require_different(runs: list[str], views: list[RunView]) -> None:
    """Refuse the same run given twice: a curve over itself looks like two runs that agree.

    Raises:
        ArgumentError: two of `runs` are one.
    """
    seen: dict[tuple[Path, str], str] = {}
    for text, view in zip(runs, views, strict=True):
        place = (view.directory.resolve(), view.run.id)
        if (first := seen.get(place)) is not None:
            raise ArgumentError(
                f"{first} and {text} are the same run, {view.run.short_id}: DIR:ID gives another of DIR"
            )
        seen[place] = text


def differing_arguments(views: list[RunView]) -> dict[str, list[Any]]:
    """Return, by name, each run's value of the arguments that are not the same in all; None where one has it not."""
    names = dict.fromkeys(name for view in views for name in sorted(view.arguments))
    found = {name: [view.arguments.get(name, _ABSENT) for view in views] for name in sorted(names)}
    differ = {name: values for name, values in found.items() if any(repr(one) != repr(values[0]) for one in values)}
    return {name: [None if one is _ABSENT else one for one in values] for name, values in differ.items()}


def last_metrics(views: list[RunView]) -> dict[str, list[float | None]]:
    """Return, by name, the newest value of each metric in each run; None where one never logged it."""
    names = sorted({name for view in views for name in view.series}, key=lambda name: (name.startswith("eval_"), name))
    return {name: [view.last_metrics.get(name) for view in views] for name in names}


def _common_metric(views: list[RunView]) -> str | None:
    return next((name for name in ("loss", "eval_loss") if any(name in view.series for view in views)), None)


def _as_dict(views: list[RunView]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "id": view.run.id,
                "name": view.run.name,
                "directory": str(view.directory),
                "status": str(view.status),
                "last_step": view.last_step,
                "seconds": view.seconds,
            }
            for view in views
        ],
        "arguments": differing_arguments(views),
        "last_metrics": last_metrics(views),
    }


def _heads(views: list[RunView], letters: list[str]) -> Table:
    table = titled("Runs")
    for name in ("", "run", "status", "steps", "took", "best"):
        table.add_column(name, overflow="fold", justify="right" if name in {"steps", "took"} else "left")
    for letter, view in zip(letters, views, strict=True):
        best = "" if view.best is None else f"{view.best.name} {number(view.best.value)} at {view.best.step}"
        table.add_row(
            Text(letter, style="bold"),
            heading_of(view),
            shown(view.status),
            str(view.last_step),
            duration(view.seconds),
            shown(best),
        )
    return table


def _table(title: str, what: str, rows: dict[str, list[Any]], letters: list[str]) -> Table:
    table = titled(title)
    table.add_column(what, overflow="fold")
    for letter in letters:
        table.add_column(letter, overflow="fold", justify="right" if what == "metric" else "left")
    for name, values in rows.items():
        table.add_row(shown(name), *(shown("-" if value is None else number(value)) for value in values))
    return table


def _show_curves(console: Console, views: list[RunView], letters: list[str], name: str) -> None:
    drawn = [(letter, view.series[name]) for letter, view in zip(letters, views, strict=True) if name in view.series]
    if len(drawn) < len(views):
        missing = [letter for letter in letters if letter not in {one for one, _ in drawn}]
        console.print(shown(f"{', '.join(missing)} never logged {name}", "dim"))
    curves = {letter: list(zip(one.steps, one.values, strict=True)) for letter, one in drawn}
    console.print(shown(f"{name} by step", "bold"))
    for line in draw(list(curves.values()), min(console.width - 1, 100), letters=list(curves)):
        console.print(Text(line, style="cyan"), no_wrap=True)
