"""Which run a command is about: `RUN` and `--run`, as all commands that read a run take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from loopwright.journal.reader import find_journal
from loopwright.report.reading import parse_run, read_run
from loopwright.report.views import RunView


def complete_run(incomplete: str) -> list[str]:
    """Return the directories that `RUN` may go on as, for shell completion; those with a journal without a slash."""
    typed = Path(incomplete)
    parent, start = (typed, "") if incomplete.endswith(os.sep) else (typed.parent, typed.name)
    try:
        folders = sorted(path for path in parent.iterdir() if path.is_dir() and path.name.startswith(start))
        return [f"{path}" if find_journal(path) else f"{path}{os.sep}" for path in folders]
    except OSError:
        return []


Chosen = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="An output directory, for its newest run; or DIR:ID with the first digits of a run's id.",
        autocompletion=complete_run,
    ),
]
Required = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="An output directory, for its newest run; or DIR:ID with the first digits of a run's id.",
        show_default=False,
        autocompletion=complete_run,
    ),
]
RunId = Annotated[
    str | None, typer.Option("--run", metavar="ID", help="The first digits of the run's id; by default the newest run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def view_of(text: str, run_id: str | None = None) -> RunView:
    """Return the run that `text` and `run_id` say.

    Raises:
        ArgumentError: there is no such run.
        JournalNotFound: there is no journal.
        JournalError: it can't be read.
    """
    return read_run(*parse_run(text, run_id))
