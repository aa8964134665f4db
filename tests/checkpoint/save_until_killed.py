"""Save checkpoints in children that are killed at random instants; report what was found after each kill.

A program of its own: it imports torch once and forks, so that twenty kills take seconds. Arguments: output directory,
number of kills, seed. Prints one JSON object per kill.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from loopwright._support import files
from loopwright.checkpoint import (
    Snapshot,
    clear_leftovers,
    find_damage,
    list_checkpoints,
    load_loopwright_state,
    load_model_weights,
    load_optimizer,
    rotate,
    write_checkpoint,
)
from loopwright.state import TrainerState

STEPS = 4  # each step is saved again and again, so most saves replace a checkpoint


def save_forever(output_dir: Path, first: int, acknowledge: int) -> None:
    """Save version after version; write each version's number to the pipe once it is durable."""
    for version in itertools.count(first):
        filled = {"weight": torch.full((400_000,), float(version))}
        snapshot = Snapshot(
            step=version % STEPS + 1,
            model=filled,
            optimizer=dict(filled),
            trainer_state=TrainerState(global_step=version),
            loopwright_state={"run_id": "run", "version": version},
            training_args_json="{}",
        )
        path = write_checkpoint(snapshot, output_dir)
        os.write(acknowledge, f"{version}\n".encode())
        rotate(output_dir, limit=STEPS - 1, run_id="run", best=None, keep=[path])


def versions_in(output_dir: Path) -> dict[str, int]:
    """Return the version of each visible checkpoint, having checked that all its files are of that one."""
    found: dict[str, int] = {}
    for path in list_checkpoints(output_dir):
        damage = find_damage(path)
        assert not damage, f"{path}: {damage}"
        version = (load_loopwright_state(path) or {})["version"]
        model = torch.nn.Module()
        model.register_buffer("weight", torch.zeros(400_000))
        load_model_weights(model, path)
        optimizer: Any = load_optimizer(path)
        for weight in (model.weight, optimizer["weight"]):
            assert bool((weight == version).all()), path
        found[path.name] = version
    return found


def kill_once(output_dir: Path, first: int, delay_seconds: float) -> dict[str, Any]:
    """Let a child save, kill it, and return what it had acknowledged and what is there."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        save_forever(output_dir, first, write_end)
    os.close(write_end)
    time.sleep(delay_seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(read_end) as pipe:
        acknowledged = [int(line) for line in pipe]
    hidden = [path.suffix for path in output_dir.iterdir() if path.name.startswith(".")]
    visible = versions_in(output_dir)
    clear_leftovers(output_dir)
    return {
        "acknowledged": acknowledged,
        "hidden": hidden,
        "visible": visible,
        "cleared": versions_in(output_dir),
        "left": sorted(path.name for path in output_dir.iterdir()),
    }


def main() -> None:
    output_dir, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    files._PIECE = 200_000  # so that the disk is at work while a file is written, as with larger ones
    instants = random.Random(seed)
    output_dir.mkdir()
    newest = 0
    for _ in range(kills):
        found = kill_once(output_dir, newest + 1, instants.uniform(0.02, 0.35))
        print(json.dumps(found), flush=True)
        newest = max([newest, *found["acknowledged"], *found["cleared"].values()])


if __name__ == "__main__":
    main()
