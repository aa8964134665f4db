"""`loopwright checkpoints`: list the checkpoints of a directory, say which are damaged and how, pin them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from loopwright.checkpoint.layout import step_of
from loopwright.checkpoint.pins import pin, unpin
from loopwright.cli.output import printable, shown
from loopwright.cli.verify import STYLES, Entry, Place, examine, find_places, read_states
from loopwright.errors import ArgumentError


def checkpoints(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An output directory, one that holds several, or a checkpoint.")
    ] = Path(),
    pins: Annotated[
        list[str] | None,
        typer.Option("--pin", metavar="STEP", help="Let rotation never delete this one; repeatable."),
    ] = None,
    unpins: Annotated[
        list[str] | None,
        typer.Option("--unpin", metavar="STEP", help="Leave this one to rotation again; repeatable."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes only, rather than read every byte.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List checkpoints: step, epoch, metric, size, whole or damaged and why, which is best, newest, pinned.

    With --pin or --unpin it does that, and lists nothing.
    """
    places = find_places(directory)
    if pins or unpins:
        changed = _change_pins(directory, places, pins or [], unpins or [])
        _say_changed(changed, as_json=as_json)
        return
    entries = examine(places, quick=quick)
    listed = [(place, [entry for entry in entries if entry.path in place.checkpoints]) for place in places]
    if as_json:
        typer.echo(json.dumps([_as_dict(place, found) for place, found in listed], indent=2))
        return
    console = Console()
    for place, found in listed:
        _show(console, place, found)


def _marked(place: Place, entries: list[Entry]) -> dict[str, Entry | None]:
    """Return which is the best and which the newest; None where that can't be told from what is here."""
    return {"best": None, "newest": None} if place.is_single else {"best": _best(entries), "newest": _newest(entries)}


def _newest(entries: list[Entry]) -> Entry | None:
    """Return the one that was written last, as rotation sees it: those whose time nobody knows come before all."""
    return max(entries, key=lambda entry: (entry.written_at or 0.0, entry.step or 0), default=None)


def _best(entries: list[Entry]) -> Entry | None:
    """Return the one that the newest undamaged one knows as the best."""
    newest = _newest([entry for entry in entries if not entry.damage])
    state = newest.trainer_state if newest else None
    if state is None or not isinstance(state.best_model_checkpoint, str | None):
        return None
    if state.best_model_checkpoint is None:
        wanted = [entry for entry in entries if entry.step is not None and entry.step == state.best_global_step]
    else:
        from loopwright.checkpoint.rotation import is_best  # noqa: PLC0415 -- torch comes with it

        wanted = [entry for entry in entries if is_best(entry.path, state.best_model_checkpoint)]
    return wanted[0] if wanted else None


def _metric_of(entry: Entry) -> tuple[str, float] | None:
    """Return name and value of what was measured at its step; None where nothing was, or nobody can tell."""
    metric = entry.own_state.get("metric")
    if not isinstance(metric, dict):
        return None
    name, value = metric.get("name"), metric.get("value")
    return (name, value) if isinstance(name, str) and isinstance(value, int | float) else None


def _epoch_of(entry: Entry) -> float | None:
    epoch = entry.trainer_state.epoch if entry.trainer_state else None
    return epoch if isinstance(epoch, int | float) else None


def _change_pins(directory: Path, places: list[Place], pins: list[str], unpins: list[str]) -> list[tuple[Path, bool]]:
    """Pin and unpin, all or, where one of the steps is wrong, none; return the checkpoints, each with what it is now.

    Raises:
        ArgumentError: there is no checkpoint of one of the steps, or the options contradict each other.
        CheckpointError: one could not be pinned or unpinned.
    """
    if len(places) > 1:
        raise ArgumentError(
            f"{directory} holds several output directories, so that a step means no checkpoint: give one of "
            f"{', '.join(str(place.directory) for place in places)}"
        )
    paths = {str(step): path for path in places[0].checkpoints if (step := _step_of(path)) is not None}
    wanted: dict[Path, bool] = {}
    for option, words, is_pin in (("--pin", pins, True), ("--unpin", unpins, False)):
        for word in words:
            if (path := paths.get(word)) is None:
                known = ", ".join(paths) or "none"
                raise ArgumentError(f"{option} {word}: no such checkpoint in {directory}; the steps there: {known}")
            if wanted.setdefault(path, is_pin) != is_pin:
                raise ArgumentError(f"--pin {word} and --unpin {word} contradict each other: give one of them")
    for path, is_pin in wanted.items():
        (pin if is_pin else unpin)(path)
    return list(wanted.items())


def _step_of(path: Path) -> int | None:
    if (step := step_of(path)) is not None:
        return step
    state = read_states(path)[0]
    return state.global_step if state else None


def _say_changed(changed: list[tuple[Path, bool]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([{"path": str(path), "is_pinned": pinned} for path, pinned in changed], indent=2))
        return
    for path, pinned in changed:
        typer.echo(f"{'pinned' if pinned else 'unpinned'}  {path}")


def _as_dict(place: Place, entries: list[Entry]) -> dict[str, Any]:
    marked = _marked(place, entries)
    found = []
    for entry in entries:
        metric = _metric_of(entry)
        found.append(
            {
                "path": str(entry.path),
                "step": entry.step,
                "epoch": _epoch_of(entry),
                "metric": {"name": metric[0], "value": metric[1]} if metric else None,
                "size": entry.size,
                "num_files": entry.num_files,
                "written_at": entry.written_at or entry.changed_at,
                "state": entry.state,
                "damage": entry.damage,
                "run_id": entry.own_state.get("run_id"),
                "is_best": None if place.is_single else entry is marked["best"],
                "is_newest": None if place.is_single else entry is marked["newest"],
                "is_pinned": entry.is_pinned,
            }
        )
    return {"directory": str(place.directory), "checkpoints": found, "hidden": place.hidden}


def _show(console: Console, place: Place, entries: list[Entry]) -> None:
    count = f"{len(entries)} checkpoint{'' if len(entries) == 1 else 's'}"
    total = f", {decimal(sum(entry.size for entry in entries))}" if entries else ""
    console.print(shown(f"{place.directory} · {count}{total}", "bold"), soft_wrap=True)
    if entries:
        console.print(_table(place, entries))
    for entry in entries:
        if entry.damage:
            reasons = "".join(f"\n  {printable(reason)}" for reason in entry.damage)
            console.print(Text.assemble((f"{printable(entry.path.name)} is damaged:", "red"), reasons), soft_wrap=True)
    if place.hidden:
        words = "being written or deleted, or left by a killed process: the next save sees to that"
        console.print(shown(f"also here: {', '.join(place.hidden)} ({words})", "dim"))
    console.print()


def _table(place: Place, entries: list[Entry]) -> Table:
    marked = _marked(place, entries)
    names = {metric[0] for entry in entries if (metric := _metric_of(entry))}
    table = Table()
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    if names:
        table.add_column(shown(names.copy().pop() if len(names) == 1 else "metric"), justify="right", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("written", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("marks")
    for entry in entries:
        epoch = _epoch_of(entry)
        marks = [mark for mark, of in marked.items() if of is entry] + ["pinned"] * entry.is_pinned
        table.add_row(
            "?" if entry.step is None else str(entry.step),
            "" if epoch is None else f"{epoch:.2f}",
            *([_metric_text(entry, with_name=len(names) > 1)] if names else []),
            decimal(entry.size),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.written_at or entry.changed_at)),
            Text(entry.state, style=STYLES[entry.state]),
            ", ".join(marks),
        )
    return table


def _metric_text(entry: Entry, *, with_name: bool) -> Text:
    metric = _metric_of(entry)
    if metric is None:
        return Text()
    return shown(f"{metric[0]} {metric[1]:.5g}" if with_name else f"{metric[1]:.5g}")
