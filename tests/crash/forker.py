"""Forks trainings of scenes.py and ends them as told, so that each costs no import: python forker.py.

A line of JSON in, {"scene", "directory", "changes", "signal", "after"}: a training of that scene goes on from what is
in the directory, and gets the signal so many seconds after its beginning. A line of JSON out: {"exit", "seconds"}.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from tests.crash import scenes  # noqa: E402
from tests.forked import work_and_exit  # noqa: E402

LIMIT_SECONDS = 120


def run(order):
    started = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        directory, changes = order["directory"], order.get("changes", {})
        work_and_exit(lambda: scenes.train(order["scene"], directory, **changes), Path(directory) / "log.txt")
    waiting = os.pidfd_open(child)
    limit = LIMIT_SECONDS if order.get("after") is None else order["after"]
    is_over = bool(select.select([waiting], [], [], limit)[0])
    if not is_over:
        os.kill(child, order["signal"] if order.get("after") is not None else 9)
        if not select.select([waiting], [], [], LIMIT_SECONDS)[0]:
            os.kill(child, 9)
    os.close(waiting)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, 9)  # a loader's worker whose parent dies in its first instant waits for ever
    return {"exit": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}


def main():
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
