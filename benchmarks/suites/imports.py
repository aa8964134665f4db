"""What importing a library costs over `import torch`: seconds, modules and resident memory, in fresh processes.

The first round is thrown away: it reads the files from the disk and writes the byte code, into a folder of the suite's
own, so that everything has been compiled whatever this environment says of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from statistics import median
from typing import Any

from rich.console import RenderableType

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.rounds import Round, alternate, spread
from benchmarks.settings import Options
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import ROOT, WorkerError

ABOUT = "seconds, modules and memory of an import over torch's"

_NUM_ROUNDS = 5
_CALLBACK_ALONE = "from loopwright import TrainerCallback"

_SCRIPT = """
import json, os, sys, time
sys.path.insert(0, {source!r})
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
{before}
modules, memory, started = len(sys.modules), resident(), time.perf_counter()
{statement}
seconds = time.perf_counter() - started
print(json.dumps({{
    "seconds": seconds,
    "modules": len(sys.modules) - modules,
    "mb": resident() - memory,
    "has_torch": "torch" in sys.modules,
}}))
"""


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Import what each implementation's users import."""
    num_rounds = options.num_rounds or _NUM_ROUNDS
    statements = {"nothing": ("import torch", "pass"), _CALLBACK_ALONE: ("", _CALLBACK_ALONE)}
    for name in options.implementations:
        statement = IMPLEMENTATIONS[name].import_statement
        if statement:
            statements[statement] = ("import torch", statement)
    say(f"{len(statements)} imports, {num_rounds} rounds and one that is thrown away")
    with tempfile.TemporaryDirectory(prefix="loopwright-byte-code-") as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        entries = {
            name: partial(_import, before, statement, environment) for name, (before, statement) in statements.items()
        }
        alternate(entries, 1)
        measured = alternate(entries, num_rounds)
    return {
        "num_rounds": num_rounds,
        "rows": {name: _summarize(statements[name][0], rounds) for name, rounds in measured.rounds.items()},
        "failed": measured.failed,
    }


def _import(before: str, statement: str, environment: Mapping[str, str]) -> Round:
    script = _SCRIPT.format(source=str(ROOT / "src"), before=before, statement=statement)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise WorkerError(done.stderr or f"status {done.returncode}")
    return _parse_last_line(done.stdout)


def _parse_last_line(output: str) -> Round:
    """Return the JSON in the last line; libraries may have printed before it."""
    found: Round = json.loads(output.strip().splitlines()[-1])
    return found


def _summarize(before: str, rounds: list[Round]) -> dict[str, Any]:
    return {
        "over": before.removeprefix("import ") or "nothing",
        "seconds": spread(found["seconds"] for found in rounds),
        "modules": median(found["modules"] for found in rounds),
        "mb": median(found["mb"] for found in rounds),
        "has_torch": rounds[0]["has_torch"],
        "rounds": rounds,
    }


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table."""
    rows = [
        [
            name,
            row["over"],
            with_quartiles(row["seconds"], 3),
            f"{row['modules']:.0f}",
            f"{row['mb']:.0f}",
            "yes" if row["has_torch"] else "no",
        ]
        for name, row in results["rows"].items()
    ]
    columns = ("import", "over", "seconds", "modules", "MB", "torch loaded")
    yield make_table(f"imports in fresh processes ({results['num_rounds']} rounds)", columns, rows)
    yield from failure_lines(results["failed"])
