"""Start several real processes that find one another as torchrun's do, and let none of them outlive its test."""

from __future__ import annotations

import atexit
import json
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """A process that has ended: exit status (below 0: by that signal), its output, and what its function returned."""

    status: int
    output: str
    returned: Any = None


def launch(
    function: Callable[..., Any],
    num_processes: int,
    tmp_path: Path,
    *arguments: object,
    timeout: float = 120.0,
    **env: str,
) -> list[Ended]:
    """Call `function` in `num_processes` processes at once, and return how each ended, in the order of their ranks.

    Arguments:
        function: Of a module that can be imported; what it returns has to be picklable.
        num_processes: With 1, the variables that say so are set all the same.
        tmp_path: Where outputs go, in a folder of each launch's own.
        arguments: Given to the function as text.
        timeout: Seconds that all of them have.
        env: Environment variables besides those that make them find one another.

    Raises:
        TimeoutError: they didn't end in time; all are killed, and the message holds what they wrote.
    """
    folder = tmp_path / f"launch-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num_processes)}
    order = {
        "module": function.__module__,
        "name": function.__qualname__,
        "arguments": list(map(str, arguments)),
        "environments": [place | {"RANK": str(n), "LOCAL_RANK": str(n)} | env for n in range(num_processes)],
        "folder": str(folder),
        "timeout": timeout,
    }
    forker = _forker()
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(json.dumps(order) + "\n")
    forker.stdin.flush()
    statuses = json.loads(forker.stdout.readline())
    ended = [_ended(folder, rank, -9 if status is None else status) for rank, status in enumerate(statuses)]
    if None in statuses:
        raise TimeoutError(f"not ended after {timeout} s\n{described(ended)}")
    return ended


def returned(*args: Any, **options: Any) -> list[Any]:
    """Return what each process's function returned; as `launch`, and all must end well.

    Raises:
        AssertionError: one didn't; the message holds what they wrote.
    """
    ended = launch(*args, **options)
    if any(one.status != 0 for one in ended):
        raise AssertionError(described(ended))
    return [one.returned for one in ended]


def described(ended: list[Ended]) -> str:
    """Return what processes wrote, for people."""
    return "\n".join(f"--- rank {rank}: status {one.status}\n{one.output[-5000:]}" for rank, one in enumerate(ended))


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@cache
def _forker() -> subprocess.Popen[str]:
    """Return the process that forks, for all tests of this one."""
    program = Path(__file__).with_name("forker.py")
    forker = subprocess.Popen(
        [sys.executable, str(program)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(_end, forker)
    return forker


def _end(forker: subprocess.Popen[str]) -> None:
    assert forker.stdin is not None
    forker.stdin.close()
    forker.wait()


def _ended(folder: Path, rank: int, status: int) -> Ended:
    file, log = folder / f"{rank}.pickle", folder / f"{rank}.log"
    found = pickle.loads(file.read_bytes()) if file.exists() else None
    return Ended(status, log.read_text() if log.exists() else "", found)
