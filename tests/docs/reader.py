"""Run the Python of pages as somebody does who reads them from top to bottom: python reader.py.

A line of JSON in, {"page", "directory", "num_blocks", "killed_at"}: the page's blocks, or the first few of them, are
run in their order, in one namespace, in a forked process whose working directory and home that is; it is killed as soon
as the path `killed_at` is there, if that isn't null. A line of JSON out: {"exit", "said"}. Forked, so that each costs
no import.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer imports, for seconds
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

torch.set_num_threads(1)  # before anything is computed: a thread pool would not live on in the forked

from loopwright import Trainer, TrainingArguments  # noqa: E402
from loopwright.trackers.registry import BUILT_IN  # noqa: E402
from tests.docs.blocks import python_blocks  # noqa: E402
from tests.forked import work_and_exit  # noqa: E402

LIMIT_SECONDS = 240
SECONDS_BETWEEN_LOOKS = 0.02


class Classifier(nn.Module):
    """A model of the reader's own, such as pages take for granted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.linear(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def taken_for_granted() -> dict[str, Any]:
    """Return what a page may use without having made it: the reader's model, data, and a Trainer of both."""
    torch.manual_seed(0)
    x = torch.randn(880, 4)
    examples = [{"x": row, "labels": int(row[:3].argmax())} for row in x]
    names: dict[str, Any] = {"model": Classifier(), "train_dataset": examples[:800], "eval_dataset": examples[800:]}
    arguments = TrainingArguments("before", num_train_epochs=1, report_to="none", use_cpu=True)
    names["trainer"] = Trainer(names["model"], arguments, train_dataset=examples[:16], eval_dataset=examples[800:])
    return {**names, "__name__": "__main__"}


def hide_trackers(code: str) -> None:
    """Let only those trackers be installed that `code` names: where it names none, `report_to` is "all"."""
    for tracker in BUILT_IN:
        class_name = tracker.class_path.partition(":")[2]
        if f'"{tracker.name}"' not in code and class_name not in code:
            for module in (tracker.sdk, *tracker.instead):
                if module is not None:
                    sys.modules[module.partition(".")[0]] = None  # type: ignore[assignment]  # Python's way to say so


def read(page: Path, directory: Path, num_blocks: int | None = None) -> None:
    """Run the blocks of a page, or its first few, in `directory`."""
    os.environ["HOME"] = str(directory)
    os.chdir(directory)
    blocks = python_blocks(page)[:num_blocks]
    if page.parent.name != "trackers":
        hide_trackers("".join(block.text for block in blocks))
    names = taken_for_granted()
    for block in blocks:
        # Lines are counted as in the page, so that a traceback leads there.
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)


def wait_for_end(child: int, killed_at: Path | None) -> None:
    """Wait until a process has ended; kill it at its limit, or when a path is there."""
    waiting = os.pidfd_open(child)
    end = time.monotonic() + LIMIT_SECONDS
    step_seconds = LIMIT_SECONDS if killed_at is None else SECONDS_BETWEEN_LOOKS
    while not select.select([waiting], [], [], step_seconds)[0]:
        if time.monotonic() >= end or (killed_at is not None and killed_at.exists()):
            os.kill(child, signal.SIGKILL)
            break
    os.close(waiting)


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Run what a line asks for, and return the answer to it."""
    directory = Path(order["directory"])
    log = directory.with_suffix(".log")
    child = os.fork()
    if child == 0:
        work_and_exit(lambda: read(ROOT / order["page"], directory, order["num_blocks"]), log)
    killed_at = None if order["killed_at"] is None else directory / order["killed_at"]
    wait_for_end(child, killed_at)
    _, status = os.waitpid(child, 0)
    if killed_at is None:  # else what it had started is to live on, as after a kill by anybody
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    return {"exit": os.waitstatus_to_exitcode(status), "said": log.read_text(encoding="utf-8")}


def main() -> None:
    """Answer each line."""
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
