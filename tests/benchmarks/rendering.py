"""What the tests of suites share: the text that a suite prints."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from benchmarks.suites import SUITES


def printed(suite: str, results: dict[str, Any]) -> str:
    """Return what `suite` prints of `results`, that went through a file, where there is no terminal."""
    console = Console(file=io.StringIO(), width=120)
    for table in SUITES[suite].render(json.loads(json.dumps(results))):
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text
