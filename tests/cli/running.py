"""Run the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys

COMMAND = [sys.executable, "-m", "loopwright"]


def loopwright(*words, columns=120, timeout=100, variables=(), **options):
    """Return the finished process, its output as text; `variables` are added to the environment."""
    environment = {**os.environ, "COLUMNS": str(columns), **dict(variables)}
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment, **options
    )


def require_harmless(text):
    """Check that nothing in `text` does anything to a terminal, and that no markup was read."""
    assert all(one.isprintable() or one == "\n" for one in text), repr(text)
