"""Write numbers, times, sizes and values as people read them."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from loopwright.records import Status

STATUS_MARKS = {
    Status.RUNNING: "▶",
    Status.COMPLETED: "✓",
    Status.STOPPED: "✓",
    Status.FAILED: "✗",
    Status.KILLED: "✗",
    Status.INTERRUPTED: "‖",
    Status.PREEMPTED: "‖",
}


def number_text(value: float | None) -> str:
    """Return a number with five digits that count; NaN and the infinities by name."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**15 else f"{float(min(value, 10**300)):.4e}"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+infinity" if value > 0 else "-infinity"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.5g}"


def duration_text(seconds: float) -> str:
    """Return a duration: "4.2 ms", "0.85 s", "12.3 s", "4 min 05 s", "3 h 12 min", "2 d 5 h"."""
    if seconds < 0.1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def time_text(seconds: float | None) -> str:
    """Return a time of day with its date, by this machine's clock."""
    if seconds is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # no time that a calendar has
        return "-"


def size_text(size: int) -> str:
    """Return a number of bytes: "12.3 MB"."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def value_text(value: Any) -> str:
    """Return an argument's value as JSON, which is how files have it; text without its quotes."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
