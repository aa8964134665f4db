"""The five-minute start, as its reader goes through it: trained, killed with kill -9, and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.docs.blocks import ROOT, python_blocks
from tests.trackers import readback

PAGE = ROOT / "docs" / "start.md"
KILLED_AFTER = "checkpoint-704"


def measured(said: str) -> tuple[str, ...]:
    """Return the last evaluation's accuracy and loss, as the program prints them."""
    return re.findall(r"'eval_accuracy': ([\d.]+), 'eval_loss': ([\d.]+)", said)[-1]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where the page's program was killed in the middle, and started again; and what it said then."""
    directory = tmp_path_factory.mktemp("start")
    (directory / "train.py").write_text(python_blocks(PAGE)[0].text, encoding="utf-8")
    options = {"cwd": directory, "env": {**os.environ, "HOME": str(directory)}, "text": True}
    with (directory / "said.txt").open("w") as said:
        first = subprocess.Popen([sys.executable, "train.py"], stdout=said, stderr=said, **options)
        end = time.monotonic() + 200
        while not (directory / "out" / KILLED_AFTER).exists():
            assert first.poll() is None, (directory / "said.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    again = subprocess.run([sys.executable, "train.py"], capture_output=True, timeout=250, check=False, **options)
    assert again.returncode == 0, again.stderr
    return directory, again.stdout


def test_the_killed_training_ends_as_the_other(killed, reader):
    directory, said = killed
    whole = reader.read("docs/start.md")
    assert measured(said) == measured(whole.said)
    assert float(measured(said)[0]) > 0.88
    command = [sys.executable, "-m", "loopwright", "runs", "out", "--json"]
    listed = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout
    (run,) = json.loads(listed)
    assert [attempt["status"] for attempt in run["attempts"]] == ["killed", "completed"]


def test_its_curve_has_each_point_once(killed):
    points = readback.tensorboard(killed[0] / "out" / "runs")
    losses = {step: values for (name, step), values in points.items() if name == "train/loss"}
    assert sorted(losses) == list(range(50, 1751, 50))
    assert all(values.total() == 1 for values in losses.values())
