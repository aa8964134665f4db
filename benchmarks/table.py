"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def make_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], caption: str | None = None) -> Table:
    """Return a table, its first column to the left, the others to the right."""
    table = Table(title=Text(title), caption=Text(caption or ""), title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        # As Text: brackets would be read as markup.
        table.add_row(*map(Text, row))
    return table


def failure_lines(failed: Mapping[str, str]) -> Iterable[Text]:
    """Return a line for each thing that could not be measured."""
    return [Text(f"{name} failed: {reason}", style="red") for name, reason in failed.items()]


def with_quartiles(spread: Mapping[str, float], digits: int = 2, *, signed: bool = False) -> str:
    """Return "1.02 [1.01, 1.04]": the median and the quartiles."""
    sign = "+" if signed else ""
    middle, low, high = (f"{spread[name]:{sign}.{digits}f}" for name in ("median", "q1", "q3"))
    return f"{middle} [{low}, {high}]"


def machine_lines(machine: Mapping[str, Any]) -> Text:
    """Return the description of the machine."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    return Text(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}; "
        f"Python {machine['python']}; load {machine['load_before']}\n"
        f"{packages}; commit {machine['commit'] or 'none'}; {machine['time']}"
    )
