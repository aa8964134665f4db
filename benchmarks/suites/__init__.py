"""The suites, a module each with `ABOUT`, `run(options, say)` (returns JSON-able results) and `render(results)`.

A new suite is a file here and a line below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Protocol, cast

from rich.console import RenderableType

from benchmarks.settings import Options

Say = Callable[[str], None]


class Suite(Protocol):
    """What a suite's module provides."""

    ABOUT: str

    def run(self, options: Options, say: Say) -> dict[str, Any]:
        """Measure."""
        ...

    def render(self, results: dict[str, Any]) -> Iterable[RenderableType]:
        """Return what to print, made from what `run` returned, a file's copy of it included."""
        ...


_MODULES = {
    "overhead": "overhead",
    "dispatch": "dispatch",
    "import": "imports",
    "log": "log",
    "journal": "journal",
    "checkpoint": "checkpoint",
    "resume": "resume",
    "evaluate": "evaluate",
    "memory": "memory",
    "ranks": "ranks",
}

SUITES: dict[str, Suite] = {name: cast(Suite, import_module(f"{__name__}.{file}")) for name, file in _MODULES.items()}
