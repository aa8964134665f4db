"""Trains with reporters of the one library in the Trainer of the other, each in a process forked here.

Says "ready". A line of JSON in, {"trainer", "callback", "directory", "variables"}: the Trainer of that library trains
there with that callback of the other's, and leaves what was logged in out/history.json and what was printed in log.txt.
A line out: the exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer imports, for seconds
import transformers.integrations
from transformers import Trainer  # noqa: F401 (whatever is loaded late is here before the first fork)

import loopwright.integrations
import loopwright.trackers.reporting
from tests.parity.tiny import build

LIMIT_SECONDS = 150


def serve() -> dict[str, Any] | None:
    """Fork for each order; return None where there are no more, and in the child its order."""
    print("ready", flush=True)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def train(trainer: str, callback: str, directory: str, variables: dict[str, str]) -> None:
    """Train, to end as any program does: SDKs do their last things at Python's exit."""
    os.chdir(directory)
    os.environ.update(variables)
    signal.alarm(LIMIT_SECONDS)  # which ends this process
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    if trainer == "loopwright":
        library, reporters = loopwright, transformers.integrations
    else:
        library, reporters = transformers, loopwright.integrations
    if (trainer, callback) == ("loopwright", "SwanLabCallback"):
        import swanlab

        swanlab.init()  # it asks for the present run, which has to be there with the SDK of today
    reporter = getattr(reporters, callback)()
    training = build(library, Path("out"), callbacks=[reporter], run_name="other", disable_tqdm=True)
    training.train()
    Path("out/history.json").write_text(json.dumps(training.state.log_history))


if __name__ == "__main__":
    torch.set_num_threads(1)  # a thread pool would not live on in the forked
    if (order := serve()) is not None:
        train(**order)
