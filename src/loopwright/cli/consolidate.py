"""`loopwright consolidate`: one file of weights of a checkpoint that was written in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

# Names of `checkpoint` load on first use, and torch with them.
from loopwright import checkpoint as room
from loopwright.checkpoint.layout import PREFIX_CHECKPOINT_DIR
from loopwright.cli.output import printable


def consolidate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help=f"A {PREFIX_CHECKPOINT_DIR}-* directory.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; by default beside it, named CHECKPOINT-model."),
    ] = None,
) -> None:
    """Put the weights that several processes have written in shards into one model.safetensors."""
    target = output if output is not None else checkpoint.with_name(f"{checkpoint.name}-model")
    with Console(stderr=True).status(f"reading {printable(str(checkpoint))}"):
        file = room.consolidate(checkpoint, target)
    typer.echo(f"{printable(str(file))}  {decimal(file.stat().st_size)}")
