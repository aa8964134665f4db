"""What all commands write alike: text that a run brought with it, numbers, durations, JSON.

Names and messages of a run are untrusted: control characters would write over the terminal, or retitle it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from loopwright.records import Status
from loopwright.report.views import RunView

_LONGEST_ERROR = 160  # two lines: a database answers with the whole of its statement

STATUS_STYLES = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.STOPPED: "green",
    Status.FAILED: "red",
    Status.KILLED: "red",
    Status.INTERRUPTED: "yellow",
    Status.PREEMPTED: "yellow",
}


def shown(value: object, style: str = "") -> Text:
    """Return `value` as text to print: no markup is read in it, and what can't be printed is spelled out."""
    return Text(printable(value), style=style)


def printable(value: object) -> str:
    """Return `value` as text in one line, control and direction characters spelled out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def shortened(text: object) -> str:
    """Return a service's error for a listing; `--json` has the whole of it, and delivery.log more."""
    said = printable(text)
    return said if len(said) <= _LONGEST_ERROR else f"{said[: _LONGEST_ERROR - 1].rstrip()}…"


def heading_of(view: RunView) -> Text:
    """Return where a run is, its name where it has one, and its short id."""
    parts = [str(view.directory), *([view.run.name] if view.run.name else []), view.run.short_id]
    return shown(" · ".join(parts), "bold")


def number(value: Any) -> str:
    """Return a metric's value, short; NaN and the infinities by name."""
    return f"{value:.5g}" if isinstance(value, float) else printable(value)


def duration(seconds: float) -> str:
    """Return "12.3 s", or hours, minutes and seconds."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02}:{int(seconds) % 60:02}" if seconds >= 60 else f"{max(seconds, 0.0):.1f} s"


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON that every parser reads: NaN and the infinities are "NaN", "Infinity" and "-Infinity"."""
    return json.dumps(_strict(value), indent=indent, allow_nan=False, default=str)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(name): _strict(inner) for name, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value
