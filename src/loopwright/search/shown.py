"""Show how a search is getting on: a line for each trial, and a table of them at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from loopwright.callbacks.printer import write_line

_MOST_ROWS = 20


def show_line(text: str, *, on_terminal: bool) -> None:
    """Write a line: on standard error, where bars are, or printed as log lines are without one."""
    if on_terminal and sys.stderr is None:
        return

    def write(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    with suppress(OSError, ValueError):  # a terminal that has gone away is no reason to stop searching
        write_line(write if on_terminal else print, text)


def describe(name: str, parameters: Mapping[str, Any], outcome: str, best: str) -> str:
    """Return the line on a trial that has ended."""
    tried = ", ".join(f"{key}={readable(value)}" for key, value in parameters.items())
    return " · ".join(part for part in (name, tried, outcome, best) if part)


def readable(value: Any) -> str:
    """Return a number, or several, as people read them."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(readable, value))
    return str(value)


def show_table(rows: Sequence[tuple[str, str, str, Mapping[str, Any]]]) -> None:
    """Print the trials, the best first, on standard error.

    Arguments:
        rows: Of each trial its name, its state, its objective and its hyper-parameters.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Trials", title_justify="left", box=None, pad_edge=False, header_style="dim")
    names = list(dict.fromkeys(name for *_, parameters in rows for name in parameters))
    for column in ("trial", "objective", "", *names):
        table.add_column(escape(column), justify="left" if column in {"trial", ""} else "right")
    for name, state, objective, parameters in rows[:_MOST_ROWS]:
        values = (readable(parameters[column]) if column in parameters else "" for column in names)
        table.add_row(*map(escape, (name, objective, state, *values)))
    if len(rows) > _MOST_ROWS:
        table.caption = f"and {len(rows) - _MOST_ROWS} more"
    with suppress(OSError, ValueError):
        Console(stderr=True).print(table)
