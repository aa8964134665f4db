from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest


def run_kills(tmp_path: Path, kills: int) -> list[dict[str, object]]:
    seed = random.randrange(2**32)
    program = Path(__file__).with_name("save_until_killed.py")
    command = [sys.executable, str(program), str(tmp_path / "run"), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    return [{"seed": seed, "kill": kill, **json.loads(line)} for kill, line in enumerate(done.stdout.splitlines())]


def check(outcomes: list[dict[str, object]], kills: int) -> None:
    """Check what `save_until_killed` didn't: that every visible checkpoint is whole, it has made sure of itself."""
    newest = 0
    for found in outcomes:
        acknowledged, cleared, left = found["acknowledged"], found["cleared"], found["left"]
        assert isinstance(acknowledged, list)
        assert isinstance(cleared, dict)
        newest = max([newest, *acknowledged])
        there = max([0, *cleared.values()])
        assert newest <= there <= newest + 1, found  # durable when acknowledged; the next may have become so just now
        newest = there
        assert left == sorted(cleared), found  # nothing hidden is left
    assert len(outcomes) == kills
    assert sum(bool(found["hidden"]) for found in outcomes) >= kills // 4, "too few kills came inside a save"


def test_a_kill_at_any_instant_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    check(run_kills(tmp_path, 20), 20)


@pytest.mark.soak
def test_many_kills_leave_whole_checkpoints_only(tmp_path: Path) -> None:
    check(run_kills(tmp_path, 500), 500)
