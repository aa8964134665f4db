"""The demo, run as `make demo` runs it: real images, a real process."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.examples.running import EXAMPLES, run_example


def demo(folder, *options):
    return run_example("digits.py", folder, *options)


def test_the_demo_reaches_its_goal_says_why_it_ended_and_goes_on_from_its_leftovers(tmp_path):
    first = demo(tmp_path)
    accuracy = float(re.search(r"([0-9.]+)% of 450 held-out images", first.stdout).group(1))
    assert accuracy >= 97
    assert "should_training_stop" in first.stdout
    assert "EarlyStoppingCallback" in first.stdout or "DefaultFlowCallback" in first.stdout
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert 1 <= len(checkpoints) <= 4

    # A half-written and a damaged checkpoint are in the way of the second run.
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "optimizer.pt").write_bytes(b"cut short")
    again = demo(tmp_path)
    assert "optimizer.pt" in again.stderr
    assert "held-out images" in again.stdout

    fresh = demo(tmp_path, "--fresh")
    assert re.search(r"1/1075", fresh.stderr), "a fresh run counts from the beginning"


def test_the_demo_helps():
    finished = subprocess.run(
        [sys.executable, EXAMPLES / "digits.py", "--help"], capture_output=True, text=True, timeout=100, check=True
    )
    assert "--fresh" in finished.stdout
