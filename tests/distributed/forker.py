"""Forks processes that have everything imported already: python forker.py. Importing takes 10 s of each otherwise.

A line of JSON in, {"module", "name", "arguments", "environments", "folder", "timeout"}: a process for each environment
calls the function, its output going to <rank>.log in the folder, and what it returns to <rank>.pickle. A line of JSON
out: the exit statuses, in order; None for one that had to be killed when the time was up.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import select
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # which the first optimizer imports, for seconds

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

torch.set_num_threads(1)  # before anything is computed: a thread pool would not live on in the forked

import loopwright.integrations  # noqa: E402, F401 (all that a training imports is here before the first fork)
from tests.forked import work_and_exit  # noqa: E402


def call(order, rank):
    function = getattr(importlib.import_module(order["module"]), order["name"])
    returned = function(*order["arguments"])
    (Path(order["folder"]) / f"{rank}.pickle").write_bytes(pickle.dumps(returned))


def start(order, rank, environment):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        work_and_exit(lambda: call(order, rank), Path(order["folder"]) / f"{rank}.log")
    return child


def wait(child, until):
    """Return the child's exit status; None where it was killed because time is up."""
    waiting = os.pidfd_open(child)
    is_over = bool(select.select([waiting], [], [], max(0.0, until - time.monotonic()))[0])
    os.close(waiting)
    if not is_over:
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, 9)  # what it has started itself
    return os.waitstatus_to_exitcode(status) if is_over else None


def main():
    for line in sys.stdin:
        order = json.loads(line)
        children = [start(order, rank, environment) for rank, environment in enumerate(order["environments"])]
        until = time.monotonic() + order["timeout"]
        print(json.dumps([wait(child, until) for child in children]), flush=True)


if __name__ == "__main__":
    main()
