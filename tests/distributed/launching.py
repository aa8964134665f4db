"""Start several real processes that find one another as torchrun's do, and let none of them outlive its test."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

# What a process runs for a function: its return value is left in a file.
_CALL = """
import importlib, pickle, sys
module, name, file, *arguments = sys.argv[1:]
found = getattr(importlib.import_module(module), name)(*arguments)
with open(file, "wb") as stream:
    pickle.dump(found, stream)
"""


class Ended(NamedTuple):
    """A process that has ended: exit status (below 0: by that signal), its output, and what its function returned."""

    status: int
    out: str
    err: str
    returned: Any = None


def launch(
    program: str | Callable[..., Any],
    num_processes: int,
    tmp_path: Path,
    *arguments: object,
    timeout: float = 120.0,
    during: Callable[[list[subprocess.Popen[str]]], None] | None = None,
    **env: str,
) -> list[Ended]:
    """Run `program` in `num_processes` processes at once, and return how each ended, in the order of their ranks.

    Arguments:
        program: Source text, or a function of a module's own; what that returns has to be picklable.
        num_processes: With 1, the variables that say so are set all the same.
        tmp_path: Where outputs go, in a folder of each launch's own.
        arguments: Given to the function as text; to a source text in `sys.argv[1:]`.
        timeout: Seconds that all of them have.
        during: Called with the processes once they are started, to kill one, say.
        env: Environment variables besides those that make them find one another.

    Raises:
        TimeoutError: they didn't end in time; all are killed, and the message holds what they wrote.
    """
    folder = tmp_path / f"launch-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num_processes)}
    processes: list[subprocess.Popen[str]] = []
    with contextlib.ExitStack() as stack:
        for rank in range(num_processes):
            out, err = (stack.enter_context((folder / f"{rank}.{kind}").open("w")) for kind in ("out", "err"))
            own = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | env
            own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            command = [sys.executable, "-c", *_what(program, folder / f"{rank}.pickle"), *map(str, arguments)]
            process = subprocess.Popen(command, env=own, cwd=ROOT, stdout=out, stderr=err, text=True)
            processes.append(process)
            stack.callback(_end, process)
        if during is not None:
            during(processes)
        is_over = _wait(processes, timeout)
    ended = [_ended(folder, rank, process.returncode) for rank, process in enumerate(processes)]
    if not is_over:
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
    return "\n".join(
        f"--- rank {rank}: status {one.status}\n{one.out[-2000:]}\n{one.err[-4000:]}" for rank, one in enumerate(ended)
    )


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _what(program: str | Callable[..., Any], file: Path) -> list[str]:
    if isinstance(program, str):
        return [program]
    return [_CALL, program.__module__, program.__qualname__, str(file)]


def _wait(processes: list[subprocess.Popen[str]], timeout: float) -> bool:
    """Return whether all ended within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process that still runs; it is ours, and no other can have its number before we have waited for it."""
    if process.poll() is None:
        process.kill()
    process.wait()


def _ended(folder: Path, rank: int, status: int) -> Ended:
    file = folder / f"{rank}.pickle"
    found = pickle.loads(file.read_bytes()) if file.exists() else None
    return Ended(status, (folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text(), found)
