"""`loopwright demo`: train on real images of digits, in a minute, to have a run to look at.

The program is `examples/digits.py`, a script that one can read and copy. The wheel holds it beside this file; where the
project is used from its sources, it is found there.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loopwright._support.extras import require_installed
from loopwright.errors import ArgumentError, LoopwrightError

_HERE = Path(__file__)
# In a wheel; in the sources.
_PLACES = (_HERE.with_name("programs") / "digits.py", _HERE.parents[3] / "examples" / "digits.py")


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the run goes.")] = Path("runs/digits"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the run that lies there, and train anew.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many epochs.")] = 25,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="A tracker that gets the numbers, by name; or all, or none. May be given several times."),
    ] = None,
) -> None:
    """Train a small network on 1,797 real images of digits, and say what came of it.

    A run that was broken off goes on from its last checkpoint. Needs the extra "demo".
    """
    require_installed("sklearn", extra="demo", purpose="loopwright demo")
    if directory.exists() and not directory.is_dir():
        raise ArgumentError(f"{directory} is a file: give a directory for the run")
    words = ["--output-dir", str(directory), "--epochs", str(epochs)]
    if report_to:
        words += ["--report-to", *report_to]
    _load(_find()).main([*words, *(["--fresh"] if fresh else [])])


def _find() -> Path:
    for place in _PLACES:
        if place.is_file():
            return place
    raise LoopwrightError(f"the demo's program is missing from this installation: expected {_PLACES[0]}")


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("loopwright_demo", path)
    if spec is None or spec.loader is None:
        raise LoopwrightError(f"{path} can't be loaded")
    program = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = program  # where classes are looked for by name
    spec.loader.exec_module(program)
    return program
