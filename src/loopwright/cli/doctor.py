"""`loopwright doctor`: say what a training would find here, before it begins."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from loopwright import __version__
from loopwright._support.env import read_choice
from loopwright.cli.output import shown, to_json
from loopwright.errors import ArgumentError, describe
from loopwright.journal.filesystem import filesystem_kind, is_network_kind
from loopwright.journal.reader import find_journal
from loopwright.journal.schema import JOURNAL_NAME, LINES_NAME
from loopwright.trackers.readiness import Package, Readiness, as_dict, examine
from loopwright.trackers.registry import listed_trackers

_LITTLE_SPACE = 1_000_000_000
_STATE_STYLES = {"ready": "green", "off": "dim", "misconfigured": "red", "not installed": "dim"}
_GOES = {
    "server": "its server",
    "offline": "files here, sent later",
    "files": "files here",
}


def doctor(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where a training would write: its output directory.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Say which trackers are usable here and why not, what is installed, and what the output directory lies on.

    No network is asked and no credential is shown. Ends with 1 where something would break a training: torch is
    missing or broken, or the directory can't be written.
    """
    found = {"system": _system(), "torch": _torch(), "directory": _directory(directory)}
    trackers = [examine(tracker) for tracker in listed_trackers().values()]
    problems = [text for part in found.values() for text in part["problems"]]
    if as_json:
        typer.echo(to_json({**found, "trackers": [as_dict(one) for one in trackers], "problems": problems}))
    else:
        _show(Console(), found, trackers, problems)
    if problems:
        raise typer.Exit(1)


def _system() -> dict[str, Any]:
    return {
        "loopwright": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        # The progress bar writes to stderr.
        "has_terminal": sys.stderr.isatty(),
        "problems": [],
    }


def _torch() -> dict[str, Any]:
    """Import torch and add two numbers on each device: what is installed need not work."""
    found: dict[str, Any] = {"version": None, "devices": [], "problems": []}
    try:
        import torch  # noqa: PLC0415 -- whether this works is the question

        found["version"] = torch.__version__
        _add_on(torch, "cpu")
    except Exception as error:  # a broken library raises OSError, ImportError, or something of its own
        found["problems"].append(f"torch can't be used: {describe(error)}")
        return found
    try:
        found["devices"] = _accelerators(torch)
    except Exception as error:  # a driver's
        found["problems"].append(f"the accelerator can't be used: {describe(error)}; use_cpu=True goes without it")
    return found


def _accelerators(torch: Any) -> list[dict[str, Any]]:
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        _add_on(torch, f"cuda:{index}")
        free, total = torch.cuda.mem_get_info(index)
        devices.append({"device": f"cuda:{index}", "name": about.name, "memory": total, "free_memory": free})
    if torch.backends.mps.is_available():
        _add_on(torch, "mps")
        devices.append({"device": "mps", "name": "Apple", "memory": None, "free_memory": None})
    return devices


def _add_on(torch: Any, device: str) -> None:
    if (torch.ones(2, device=device) + 1).sum().item() != 4:
        raise ArithmeticError(f"1 + 1 is not 2 on {device}")


def _directory(directory: Path) -> dict[str, Any]:
    place = directory.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent  # a training makes the directories that are missing
    kind = filesystem_kind(place)
    found: dict[str, Any] = {
        "path": str(directory),
        "exists": place == directory.absolute(),
        "filesystem": kind or None,
    }
    problems = [problem] if (problem := _why_not_writable(place)) else []
    try:
        chosen = read_choice("LOOPWRIGHT_JOURNAL", ("sqlite", "lines"))
    except ArgumentError as error:
        chosen = None
        problems.append(str(error))
    there = find_journal(directory)
    by_kind = LINES_NAME if chosen == "lines" or (chosen is None and is_network_kind(kind)) else JOURNAL_NAME
    found["journal"] = by_kind if there is None else there.name
    found["has_journal"] = there is not None
    found["free_space"] = None if problems else shutil.disk_usage(place).free
    return {**found, "problems": problems}


def _why_not_writable(place: Path) -> str | None:
    if not place.is_dir():
        return f"{place} is not a directory"
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".loopwright-") as file:
            file.write(b"written")
            file.flush()
    except OSError as error:
        return f"{place} can't be written: {error.strerror}"
    return None


# For people


def _show(console: Console, found: dict[str, Any], trackers: list[Readiness], problems: list[str]) -> None:
    console.print(_facts(found))
    console.print()
    console.print(_tracker_table(trackers))
    for problem in problems:
        console.print(Text.assemble(("a training would break here: ", "bold red"), shown(problem)), soft_wrap=True)
    if not problems:
        console.print(Text("nothing here would break a training", style="green"))


def _facts(found: dict[str, Any]) -> Table:
    system, torch, directory = found["system"], found["torch"], found["directory"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("loopwright", shown(f"{system['loopwright']}, Python {system['python']}, {system['platform']}"))
    table.add_row("torch", shown(torch["version"] or "can't be used", "" if torch["version"] else "red"))
    names = [f"{one['name']} ({one['device']}{_memory(one)})" for one in torch["devices"]]
    table.add_row("accelerator", shown("; ".join(names) or f"none: trains on {system['cpus']} CPU cores"))
    told = "has a terminal" if system["has_terminal"] else "no terminal: disable_tqdm=True keeps it out of the output"
    table.add_row("progress bar", shown(told))
    table.add_row("directory", shown(directory["path"] + ("" if directory["exists"] else " (not made yet)")))
    kind = directory["filesystem"] or "unknown"
    journal = f"{directory['journal']}, {'there already' if directory['has_journal'] else 'to be made'}"
    table.add_row("filesystem", shown(f"{kind}; the journal: {journal}"))
    if (free := directory["free_space"]) is not None:
        is_little = free < _LITTLE_SPACE
        words = f"{decimal(free)} free" + (": little for checkpoints" if is_little else "")
        table.add_row("disk", shown(words, "yellow" if is_little else ""))
    return table


def _memory(device: dict[str, Any]) -> str:
    return "" if device["memory"] is None else f", {decimal(device['free_memory'])} of {decimal(device['memory'])} free"


def _tracker_table(trackers: list[Readiness]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tracker", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("SDK", overflow="fold")
    table.add_column("credentials", no_wrap=True)
    table.add_column("goes to, or why not", overflow="fold")
    for one in sorted(trackers, key=lambda readiness: list(_STATE_STYLES).index(readiness.state)):
        table.add_row(
            shown(one.name),
            Text(one.state, style=_STATE_STYLES[one.state]),
            _versions(one),
            _credentials(one),
            shown(one.reason if one.goes is None else _GOES[one.goes]) if one.reason or one.goes else "",
        )
    return table


def _versions(readiness: Readiness) -> Text:
    """Return the version of the SDK, and by name what else lies outside of its range."""
    first, *others = readiness.packages or (None,)
    lines = [] if first is None or first.version is None else [_version(first, first.version)]
    lines += [_version(one, f"{one.name} {one.version}") for one in others if one.version is not None and not one.fits]
    return Text("\n").join(lines)


def _version(package: Package, said: str) -> Text:
    text = shown(said)
    if not package.fits:
        text.append(f", made for {package.wanted}", style="yellow")
    return text


def _credentials(readiness: Readiness) -> Text:
    if not readiness.credentials:
        return Text("not needed", style="dim")
    is_present = any(one.is_present for one in readiness.credentials)
    return Text("present", style="green") if is_present else Text("absent")
