"""Say which commands there are, and turn errors into one line and an exit status.

0   done
1   something is left over, or went wrong; the line says what
2   the command line can't be understood
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from loopwright import __version__
from loopwright.cli import (
    checkpoints,
    compare,
    consolidate,
    demo,
    doctor,
    export,
    report,
    runs,
    show,
    sync,
    tail,
    verify,
)
from loopwright.cli.output import printable
from loopwright.errors import LoopwrightError, describe

app = typer.Typer(
    name="loopwright",
    help="Look at training runs and their checkpoints, and deliver what was logged.",
    epilog="Ends with 0 where all is well, 1 where something is left over or went wrong, 2 where the line can't be "
    "understood.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("runs")(runs.runs)
app.command("show")(show.show)
app.command("tail")(tail.tail)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("sync")(sync.sync)
app.command("checkpoints")(checkpoints.checkpoints)
app.command("verify")(verify.verify)
app.command("consolidate")(consolidate.consolidate)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loopwright {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", callback=_show_version, is_eager=True
    ),
) -> None:
    """Look at training runs and their checkpoints, and deliver what was logged."""


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what the terminal's encoding lacks is spelled out, and ends nothing
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="loopwright")
    except (LoopwrightError, OSError) as error:
        text = str(error) if isinstance(error, LoopwrightError) else describe(error)
        sys.stderr.write(f"loopwright: {printable(' '.join(text.splitlines()))}\n")
        sys.exit(1)
