"""Run an example as a person does: from its file, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `examples/<name>` in `folder`, writing to `run` in there, and return what it said; it has to end well."""
    finished = subprocess.run(
        [sys.executable, EXAMPLES / name, "--output-dir", "run", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished
