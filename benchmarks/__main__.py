"""`python -m benchmarks`: run suites, print their tables, write their figures as JSON on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.implementations import IMPLEMENTATIONS, INSTALL_PEERS
from benchmarks.machine import describe_machine
from benchmarks.settings import Options
from benchmarks.suites import SUITES
from benchmarks.suites.overhead import ALL_CASES, STANDARD_CASES
from benchmarks.table import machine_lines, make_table

_WIDTH_WITHOUT_TERMINAL = 120

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=f"Run the suites {', '.join(SUITES)}, or those named, with Loopwright beside the bare loop.")
def main(  # noqa: PLR0913 -- a command line
    names: Annotated[list[str] | None, typer.Argument(help="Suites, and peers to include; see --list.")] = None,
    *,
    peers: Annotated[bool, typer.Option("--peers", help="Include every peer that is installed.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds per case; each suite has its own default.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Run all cases, not the standard ones alone.")] = False,
    case: Annotated[list[str] | None, typer.Option("--case", help="Run this case of overhead; see --list.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="About how long a round of the bare loop lasts.")] = 1.0,
    list_all: Annotated[bool, typer.Option("--list", help="List suites, cases and implementations, and end.")] = False,
) -> None:
    """Parse the command line and run what it asks for."""
    # A file or a pipe has no width of its own.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_WITHOUT_TERMINAL)
    if list_all:
        _print_list(console)
        return
    if unknown := set(case or ()) - set(ALL_CASES):
        raise typer.BadParameter(f"no such case: {', '.join(sorted(unknown))}; there are: {'; '.join(ALL_CASES)}")
    suites, implementations, missing = _choose(names or [], with_peers=peers)
    for name in missing:
        console.print(f"{name} is not installed; it joins after: {INSTALL_PEERS}", markup=False)
    options = Options(implementations, rounds, full, tuple(case or ()), seconds)
    for results in _run(suites, options, console):
        if json_file is not None:  # after each suite: all of them take more than an hour
            json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if json_file is not None:
        console.print(f"written: {json_file}", markup=False)


def _choose(names: list[str], *, with_peers: bool) -> tuple[list[str], tuple[str, ...], list[str]]:
    """Return the suites and implementations to run, and the peers that would be and aren't installed."""
    if unknown := [name for name in names if name not in SUITES and name not in IMPLEMENTATIONS]:
        allowed = ", ".join([*SUITES, *IMPLEMENTATIONS])
        raise typer.BadParameter(f"unknown: {', '.join(unknown)}; there are {allowed}")
    suites = [name for name in SUITES if name in names] or list(SUITES)
    general = {name: one for name, one in IMPLEMENTATIONS.items() if one.suite is None}
    wanted = [name for name, one in general.items() if not one.is_peer or with_peers or name in names]
    missing = [name for name in wanted if not IMPLEMENTATIONS[name].is_installed]
    return suites, tuple(name for name in wanted if name not in missing), missing


def _run(suites: list[str], options: Options, console: Console) -> Iterator[dict[str, Any]]:
    """Run `suites` and print their tables; after each, give all figures so far."""
    machine = describe_machine()
    console.print(machine_lines(machine))
    results: dict[str, Any] = {"machine": machine, "suites": {}}
    for name in suites:
        found = SUITES[name].run(options, partial(_say, console, name))
        results["suites"][name] = found
        for table in SUITES[name].render(found):
            console.print(table)
        machine["load_after"] = round(os.getloadavg()[0], 2)
        yield results


def _say(console: Console, suite: str, text: str) -> None:
    console.print(f"{suite}: {text}", style="dim", markup=False, highlight=False)


def _print_list(console: Console) -> None:
    console.print(make_table("suites", ("", "measures"), [[name, suite.ABOUT] for name, suite in SUITES.items()]))
    cases = [[name, "yes" if name in STANDARD_CASES else "with --full"] for name in ALL_CASES]
    console.print(make_table("cases of overhead", ("", "runs"), cases))
    rows = [[name, "yes" if one.is_installed else INSTALL_PEERS] for name, one in IMPLEMENTATIONS.items()]
    console.print(make_table("implementations", ("", "installed"), rows))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
