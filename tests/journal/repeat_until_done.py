"""Record the same small training again and again, in children that end at random instants; say what was left.

A program of its own, which forks: a hundred crashes take seconds. Arguments: directory, kind of journal, seeds. A
child goes on from the newest checkpoint, as a training does. Prints a JSON object per seed: what still counts after
all crashes, with the same of a training that nobody interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status

STEPS = 14
ID = "a" * 32


def train(output_dir: Path, instant: Callable[[], None]) -> None:
    """Train to the end, unless `instant`, which is called between any two things that are done, never returns."""
    recorder = Recorder(output_dir)
    checkpoint = newest_checkpoint(output_dir)
    recorder.begin_attempt(
        Run(id=ID, output_dir=str(output_dir)),
        purpose="training",
        first_step=checkpoint["step"],
        resumed_at=checkpoint["journal"],
    )
    instant()
    if checkpoint["is_none"]:
        save(recorder, output_dir, 0, instant)
    for step in range(checkpoint["step"] + 1, STEPS + 1):
        take_step(recorder, step, instant)
        if step % 4 == 0:
            save(recorder, output_dir, step, instant)
    recorder.record(Kind.LOG, STEPS, {"train_loss": 0.5, "train_runtime": time.time()})
    instant()
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()


def take_step(recorder: Recorder, step: int, instant: Callable[[], None]) -> None:
    loss = float("nan") if step == 5 else 1 / step
    recorder.decide(Decision(step, "DefaultFlow", "on_step_end", "should_log", True))
    instant()
    added = {"gpu_temperature": time.time()}  # a callback's, different each time
    recorder.record(Kind.LOG, step, {"loss": loss, "epoch": step / 10, **added}, added=list(added))
    instant()
    if step % 3 == 0:
        evaluated = {"eval_loss": loss, "eval_runtime": time.time(), "nested": [loss, {"a": None}]}
        recorder.record(Kind.LOG, step, evaluated)
        instant()
        recorder.record(Kind.PREDICTION, step, {"test_loss": loss})
        instant()
    if step % 2 == 0:
        recorder.record(Kind.LOG, step, {"own": step}, tracker="wandb")
        instant()


def save(recorder: Recorder, output_dir: Path, step: int, instant: Callable[[], None]) -> None:
    recorder.sync()
    written = {"step": step, "journal": recorder.whereabouts(), "is_none": False}
    beside = output_dir / "writing"
    beside.write_text(json.dumps(written))
    instant()
    beside.rename(output_dir / f"checkpoint-{step:03}.json")
    recorder.record(Kind.CHECKPOINT, step, {"path": f"checkpoint-{step}"})
    instant()


def newest_checkpoint(output_dir: Path) -> dict[str, Any]:
    found = sorted(output_dir.glob("checkpoint-*.json"))
    if found:
        read: dict[str, Any] = json.loads(found[-1].read_text())
        return read
    return {"step": 0, "journal": {"position": 0, "awaited": []}, "is_none": True}  # there is only the beginning


def dying_after(num_instants: int) -> Callable[[], None]:
    left = num_instants

    def instant() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return instant


def run_in_child(output_dir: Path, num_instants: int) -> bool:
    """Train in a child that ends after so many instants; return whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            train(output_dir, dying_after(num_instants))
        except BaseException:
            logging.exception("the training failed")
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"a child ended with {status}")
    return status == 0


def what_counts(output_dir: Path) -> list[list[Any]]:
    """Return all that still counts, but for what differs from machine to machine."""
    volatile = ("train_runtime", "eval_runtime", "gpu_temperature")
    with JournalReader(output_dir) as reader:
        reader.check()
        records = reader.records(ID, tracker="wandb")
    return [
        [str(record.kind), record.step, {name: v for name, v in record.values.items() if name not in volatile}]
        for record in records
    ]


def main() -> None:
    directory, kind, seeds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.environ["LOOPWRIGHT_JOURNAL"] = kind
    undisturbed = directory / "undisturbed"
    undisturbed.mkdir()
    run_in_child(undisturbed, 10**6)
    for seed in range(seeds):
        instants = random.Random(seed)
        output_dir = directory / str(seed)
        output_dir.mkdir()
        crashes = 0
        # Longer and longer, or a training that crashes before its first checkpoint would never end.
        while not run_in_child(output_dir, instants.randrange(4 + 3 * crashes)):
            crashes += 1
        with JournalReader(output_dir) as reader:
            statuses = [str(attempt.status) for attempt in reader.attempts()]
        found = {"crashes": crashes, "statuses": statuses}
        counts = {"found": what_counts(output_dir), "expected": what_counts(undisturbed)}
        print(json.dumps(found | counts), flush=True)


if __name__ == "__main__":
    main()
