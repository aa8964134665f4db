"""`loopwright verify`: read every byte of checkpoints and say, also by the exit status, whether they are whole.

What the two commands about checkpoints share is here: finding them from a path, and examining one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

# Names of `checkpoint` load on first use, and torch with them: delivery, which begins here too, needs none of it.
from loopwright import checkpoint
from loopwright.checkpoint.layout import (
    MANIFEST_NAME,
    PREFIX_CHECKPOINT_DIR,
    list_checkpoints,
    step_of,
)
from loopwright.checkpoint.manifest import count_files, find_size_damage, written_at
from loopwright.checkpoint.pins import is_pinned
from loopwright.cli.output import printable
from loopwright.errors import ArgumentError, CheckpointError, CheckpointNotFound
from loopwright.state import TRAINER_STATE_NAME, TrainerState

STYLES = {"whole": "green", "sizes match": "green", "unverified": "yellow", "damaged": "red"}

_BAR_FROM_BYTES = 200_000_000
_HIDDEN_ENDINGS = {".tmp", ".old", ".gone"}  # see checkpoint/hidden.py


@dataclass
class Place:
    """An output directory, or one checkpoint by itself.

    Attributes:
        directory: As it was given, or a folder in that.
        checkpoints: Lowest step first.
        hidden: Names of directories through which a checkpoint comes or goes.
        is_single: Whether this is one checkpoint: nothing is known of those beside it then.
    """

    directory: Path
    checkpoints: list[Path]
    hidden: list[str] = field(default_factory=list)
    is_single: bool = False


@dataclass
class Entry:
    """One checkpoint as it was found.

    Attributes:
        path: The directory.
        step: By its name, or else by its `trainer_state.json`; None where neither says it.
        state: "whole", "sizes match" (the files weren't read), "unverified" (there is no manifest) or "damaged".
        damage: What is wrong, one line for each file.
        size: Bytes of all files.
        num_files: How many they are.
        written_at: Unix time by the manifest; None where there is none, or none that can be read.
        changed_at: Unix time at which `trainer_state.json`, or else the directory, was changed last.
        trainer_state: What `trainer_state.json` holds; None where it can't be read.
        own_state: What `loopwright_state.json` holds; empty where it can't be read.
        is_pinned: Whether somebody pinned it.
    """

    path: Path
    step: int | None
    state: str
    damage: list[str]
    size: int
    num_files: int
    written_at: float | None
    changed_at: float
    trainer_state: TrainerState | None
    own_state: dict[str, Any]
    is_pinned: bool


def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Checkpoints, or directories that hold some.", show_default=False),
    ],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print damaged ones only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Read every byte of checkpoints; exit with 1 where one is damaged, or where there is none."""
    places = []
    for path in paths:
        found = find_places(path)
        if not any(place.checkpoints for place in found):
            raise CheckpointNotFound(f"{path} holds no checkpoint yet")
        places += found
    entries = examine(places)
    if as_json:
        typer.echo(json.dumps([_as_dict(entry) for entry in entries], indent=2))
    else:
        console = Console()
        for entry in entries:
            if entry.damage or not quiet:
                console.print(_line(entry), soft_wrap=True)
    if any(entry.damage for entry in entries):
        raise typer.Exit(1)


def find_places(directory: Path) -> list[Place]:
    """Return the output directories that `directory` is or holds, or the one checkpoint that it is.

    Raises:
        ArgumentError: there is no such directory, or it can't be read.
        CheckpointNotFound: there is no checkpoint in it, nor in a folder of it.
    """
    try:
        if not directory.exists():
            raise ArgumentError(f"no such directory: {directory}")
        if not directory.is_dir():
            raise ArgumentError(
                f"{directory} is a file: give an output directory, one that holds several, or a checkpoint"
            )
        places = _places_in(directory)
    except OSError as error:
        raise ArgumentError(f"{error.filename or directory} can't be read: {error.strerror}") from error
    if not places:
        raise CheckpointNotFound(f"{directory} holds no checkpoint, nor does a folder in it")
    return places


def examine(places: list[Place], *, quick: bool = False) -> list[Entry]:
    """Return every checkpoint in `places`, examined; a terminal gets a bar where there is much to read.

    Those that a training deletes meanwhile are left out.

    Arguments:
        places: Where to look.
        quick: Compare the files' sizes only.
    """
    paths = [path for place in places for path in place.checkpoints]
    sizes = {path: count_files(path)[1] for path in paths}
    total = sum(sizes.values())
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    is_hidden = quick or total < _BAR_FROM_BYTES or not console.is_terminal
    entries = []
    # What is piped elsewhere must not be redirected to the bar's terminal.
    with Progress(*columns, console=console, transient=True, disable=is_hidden, redirect_stdout=False) as progress:
        bar = progress.add_task("", total=total)
        for path in paths:
            progress.update(bar, description=f"reading {path.name}")
            entry = _examine_one(path, quick=quick)
            if path.is_dir():
                entries.append(entry)
            progress.advance(bar, sizes[path])
    return entries


def read_states(path: Path) -> tuple[TrainerState | None, dict[str, Any]]:
    """Return what the two files of states hold; None and an empty dict where they can't be read."""
    try:
        state: TrainerState | None = checkpoint.load_trainer_state(path)
    except (CheckpointError, OSError):
        state = None
    try:
        return state, checkpoint.load_loopwright_state(path) or {}
    except (CheckpointError, OSError):
        return state, {}


def _places_in(directory: Path) -> list[Place]:
    if (place := _place(directory)) is not None:
        return [place]
    named = directory if directory.name not in ("", "..") else directory.resolve()  # "." says nothing about a step
    if step_of(named) is not None or (directory / MANIFEST_NAME).exists():
        return [Place(directory, [named], is_single=True)]
    folders = sorted(path for path in directory.iterdir() if path.is_dir())
    return [place for path in folders if (place := _place(path)) is not None]


def _place(directory: Path) -> Place | None:
    found = list_checkpoints(directory)
    names = directory.glob(f".{PREFIX_CHECKPOINT_DIR}-*")
    hidden = sorted(path.name for path in names if path.suffix in _HIDDEN_ENDINGS)
    return Place(directory, found, hidden) if found or hidden else None


def _examine_one(path: Path, *, quick: bool) -> Entry:
    num_files, size = count_files(path)
    try:
        damage = _compare_sizes(path) if quick else checkpoint.find_damage(path)
    except OSError as error:
        damage = [f"can't be read: {error.strerror}"]
    if damage:
        state = "damaged"
    elif not os.path.lexists(path / MANIFEST_NAME):
        state = "unverified"
    else:
        state = "sizes match" if quick else "whole"
    trainer_state, own_state = read_states(path)
    step = step_of(path)
    return Entry(
        path=path,
        step=trainer_state.global_step if step is None and trainer_state else step,
        state=state,
        damage=damage,
        size=size,
        num_files=num_files,
        written_at=written_at(path),
        changed_at=_changed_at(path),
        trainer_state=trainer_state,
        own_state=own_state,
        is_pinned=is_pinned(path),
    )


def _compare_sizes(directory: Path) -> list[str]:
    if not os.path.lexists(directory / MANIFEST_NAME):
        return checkpoint.find_damage(directory)  # it reads tables of contents alone
    return find_size_damage(directory)


def _changed_at(path: Path) -> float:
    for name in (TRAINER_STATE_NAME, "."):
        try:
            return (path / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def _line(entry: Entry) -> Text:
    rest = f"{entry.path} ({entry.num_files} files, {decimal(entry.size)})"
    if entry.damage:
        rest = f"{entry.path}: {'; '.join(entry.damage)}"
    elif entry.state == "unverified":
        rest += f": can be opened, but has no {MANIFEST_NAME} to tell by"
    return Text.assemble((f"{entry.state:10}", STYLES[entry.state]), "  ", printable(rest))


def _as_dict(entry: Entry) -> dict[str, Any]:
    return {
        "path": str(entry.path),
        "step": entry.step,
        "state": entry.state,
        "damage": entry.damage,
        "size": entry.size,
        "num_files": entry.num_files,
    }
