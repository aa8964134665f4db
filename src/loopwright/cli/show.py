"""`loopwright show`: one run on a page: how it went, who decided what, what it cost, with which arguments."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleRenderable
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from loopwright.cli.choice import AsJson, Chosen, RunId, view_of
from loopwright.cli.output import STATUS_STYLES, duration, heading_of, number, shortened, shown, to_json
from loopwright.cli.plot import draw
from loopwright.errors import ArgumentError
from loopwright.report.views import AttemptView, RunView, Series

_MOST_DECISIONS = 20
_MOST_CALLBACKS = 10
_CHECKPOINT_STYLES = {"damaged": "red", "unverified": "yellow", "deleted": "dim"}
_EVALUATION = "eval_"


def show(
    run: Chosen = ".",
    run_id: RunId = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Every argument, decision and callback, not only what stands out.")
    ] = False,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="NAME", help="The metric to draw; by default the loss.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: its attempts, metrics, a plot, decisions by name, costs by callback, checkpoints and arguments."""
    view = view_of(run, run_id)
    drawn = _to_draw(view, plot)
    if as_json:
        typer.echo(to_json(as_dict(view)))
        return
    console = Console()
    console.print(heading_of(view), soft_wrap=True)
    console.print(_summary(view), soft_wrap=True)
    sections: list[Iterable[ConsoleRenderable]] = [
        [_attempts(view)],
        _curve(drawn, console.width),
        [_metrics(view)],
        _decisions(view, show_all=show_all),
        _costs(view, show_all=show_all),
        _checkpoints(view, show_all=show_all),
        _arguments(view, show_all=show_all),
    ]
    for section in sections:
        console.print()
        for part in section:
            console.print(part, soft_wrap=isinstance(part, Text))


def as_dict(view: RunView) -> dict[str, Any]:
    """Return the run JSON-able, without its log lines: `loopwright export` has those."""
    return {
        "id": view.run.id,
        "name": view.run.name,
        "directory": str(view.directory),
        "created_at": view.run.created_at,
        "status": str(view.status),
        "is_alive": view.is_alive,
        "last_step": view.last_step,
        "max_steps": max_steps_of(view),
        "seconds": view.seconds,
        "best": None if view.best is None else asdict(view.best),
        "attempts": [_attempt_as_dict(one) for one in view.attempts],
        "last_metrics": view.last_metrics,
        "num_log_lines": len(view.lines),
        "decisions": [{**asdict(decision), "time": record.time} for decision, record in view.decisions],
        "checkpoints": [{**asdict(one), "path": str(one.path)} for one in view.checkpoints],
        "costs": None if view.costs is None else asdict(view.costs),
        "trackers": [asdict(one) for one in view.trackers],
        "arguments": view.arguments,
        "changed_arguments": {one.name: one.value for one in view.differences},
        "versions": view.versions,
    }


def max_steps_of(view: RunView) -> int | None:
    """Return the steps that the training was to have; None where its arguments don't say."""
    steps = view.arguments.get("max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def _attempt_as_dict(one: AttemptView) -> dict[str, Any]:
    attempt = one.attempt
    return {
        "number": one.number,
        "purpose": attempt.purpose,
        "status": str(one.status),
        "reason": attempt.reason,
        "first_step": attempt.first_step,
        "last_step": one.last_step,
        "started_at": attempt.started_at,
        "until": one.until,
        "seconds": one.seconds,
        "host": attempt.host,
        "pid": attempt.pid,
    }


def _summary(view: RunView) -> Text:
    text = Text.assemble((str(view.status), STATUS_STYLES[view.status]), f" · step {view.last_step}")
    if (steps := max_steps_of(view)) is not None:
        text.append(f" of {steps}")
    text.append(f" · {duration(view.seconds)}")
    if view.best is not None:
        text.append_text(shown(f" · best {view.best.name} {number(view.best.value)} at step {view.best.step}"))
    if view.run.parent_id is not None and view.run.parent_step is not None:
        text.append(f" · branched off {view.run.parent_id[:8]} at step {view.run.parent_step}")
    for tracker in view.trackers:
        left = tracker.undelivered
        said = f"{left} undelivered" if left else "everything delivered"
        text.append("\n").append_text(shown(f"{tracker.name}: ")).append(said, style="yellow" if left else "green")
        if tracker.error:
            text.append(f" ({shortened(tracker.error)})")
    return text


def _attempts(view: RunView) -> Table:
    table = titled("Attempts")
    for name in ("attempt", "steps", "began", "took"):
        table.add_column(name, justify="left" if name == "began" else "right", no_wrap=True)
    table.add_column("ended", overflow="fold")
    for one in view.attempts:
        why = one.attempt.reason or ("its process is gone" if one.status != one.attempt.status else None)
        table.add_row(
            str(one.number),
            f"{one.attempt.first_step}-{one.last_step}",
            time.strftime("%m-%d %H:%M:%S", time.localtime(one.attempt.started_at)),
            duration(one.seconds),
            shown(f"{one.status}: {why}" if why else one.status, STATUS_STYLES[one.status]),
        )
    return table


def _to_draw(view: RunView, name: str | None) -> Series | None:
    """Return the series to draw: the one asked for, else the loss, else the evaluation's."""
    if name is None:
        return view.series.get("loss") or view.series.get("eval_loss")
    return named_series(view, name)


def named_series(view: RunView, name: str) -> Series:
    """Return the metric `name` of a run.

    Raises:
        ArgumentError: it was never logged; the message says what was.
    """
    if name not in view.series:
        raise no_such_metric(name, [view])
    return view.series[name]


def no_such_metric(name: str, views: Sequence[RunView]) -> ArgumentError:
    """Return the error that says which metrics the runs have."""
    known = sorted({one for view in views for one in view.series})
    return ArgumentError(f"--plot {name}: no such metric; logged are {', '.join(known) or 'none'}")


def _curve(series: Series | None, width: int) -> Iterator[ConsoleRenderable]:
    if series is None:
        yield _heading("Plot", "no loss was logged")
        return
    yield shown(f"{series.name} by step", "bold")
    for line in draw([list(zip(series.steps, series.values, strict=True))], min(width - 1, 100)):
        yield Text(line, style="cyan")
    if series.num_nonfinite:
        yield Text(f"{series.num_nonfinite} of {len(series)} values are not finite (x)", style="red")


def _metrics(view: RunView) -> Table:
    """Return the newest value of each metric, those of evaluations beside those of the training."""
    table = titled("Last metrics")
    for name in ("metric", "value", "at step"):
        table.add_column(name, justify="left" if name == "metric" else "right", overflow="fold")
    for name, series in sorted(view.series.items(), key=lambda item: (item[0].startswith(_EVALUATION), item[0])):
        table.add_row(shown(name), number(series.values[-1]), str(series.steps[-1]))
    return table


def _decisions(view: RunView, *, show_all: bool) -> Iterator[ConsoleRenderable]:
    found = [str(decision) for decision, _ in view.decisions]
    yield _heading("Decisions", None if found else "none")
    hidden = 0 if show_all else max(len(found) - _MOST_DECISIONS, 0)
    if hidden:
        yield Text(f"… {hidden} earlier ones: --all", style="dim")
    yield from (shown(line) for line in found[hidden:])


def _costs(view: RunView, *, show_all: bool) -> Iterator[ConsoleRenderable]:
    if view.costs is None:
        yield _heading("Costs", "none recorded: an older Loopwright wrote this run, or it took no step")
        return
    total = view.costs.total
    table = titled("Where the time went")
    for name in ("part", "seconds", "share"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name, seconds in sorted(view.costs.parts.items(), key=lambda item: -item[1]):
        table.add_row(shown(name.replace("_", " and ")), f"{seconds:.2f}", _share(seconds, total))
    yield table
    yield Text()
    costs = view.costs.callbacks[: None if show_all else _MOST_CALLBACKS]
    table = titled("Cost per callback")
    table.add_column("callback", overflow="fold")
    for name in ("calls", "seconds", "share"):
        table.add_column(name, justify="right")
    for cost in costs:
        event = f"{cost.callback}.{cost.event}"
        table.add_row(shown(event), str(cost.calls), f"{cost.seconds:.3f}", _share(cost.seconds, total))
    yield table
    if len(costs) < len(view.costs.callbacks):
        yield Text(f"… {len(view.costs.callbacks) - len(costs)} cheaper ones: --all", style="dim")


def _share(seconds: float, total: float) -> str:
    return f"{seconds / total:.1%}" if total > 0 else ""


def _checkpoints(view: RunView, *, show_all: bool) -> Iterator[ConsoleRenderable]:
    listed = [one for one in view.checkpoints if show_all or one.exists]
    num_deleted = len(view.checkpoints) - len(listed)
    if not listed:
        yield _heading("Checkpoints", f"none; {num_deleted} deleted: --all" if num_deleted else "none")
        return
    table = titled("Checkpoints")
    for name in ("step", "size", "state", "where"):
        table.add_column(name, justify="right" if name in {"step", "size"} else "left", overflow="fold")
    for one in listed:
        marks = one.state + (", pinned" if one.is_pinned else "")
        table.add_row(
            "?" if one.step is None else str(one.step),
            decimal(one.size) if one.exists else "",
            Text(marks, style=_CHECKPOINT_STYLES.get(one.state, "green")),
            shown(one.path.name),
        )
    yield table
    yield from (shown(f"{one.path.name}: {line}", "red") for one in listed for line in one.damage)
    if num_deleted:
        yield Text(f"… {num_deleted} deleted since: --all", style="dim")


def _arguments(view: RunView, *, show_all: bool) -> Iterator[ConsoleRenderable]:
    """Return the arguments, those that differ from the defaults first."""
    different = {one.name: one for one in view.differences}
    names = sorted(view.arguments, key=lambda name: (name not in different, name))
    listed = names if show_all else names[: len(different)]
    table = titled("Arguments" if show_all else "Arguments that differ")
    table.add_column("argument", overflow="fold")
    table.add_column("value", overflow="fold")
    table.add_column("default", overflow="fold", style="dim")
    for name in listed:
        one = different.get(name)
        default = one.default if one is not None and one.is_known else ""
        table.add_row(shown(name, "bold" if one else ""), shown(view.arguments[name]), shown(default))
    yield table
    if len(listed) < len(names):
        yield Text(f"… {len(names) - len(listed)} have their defaults: --all", style="dim")


def titled(title: str) -> Table:
    """Return a table to fill, with a heading."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")


def _heading(title: str, said: str | None) -> Text:
    return Text.assemble((title, "bold"), f": {said}" if said else "")
