"""The five-minute start, as its reader goes through it: trained, killed with kill -9, gone on with, and looked at."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.cli.running import loopwright
from tests.docs.blocks import ROOT, blocks_of, python_blocks
from tests.trackers import readback

NAME = "docs/start.md"
PAGE = ROOT / NAME
KILLED_AT = "out/checkpoint-352"


def measured(said: str) -> tuple[str, ...]:
    """Return the last evaluation's accuracy and loss, as the program prints them."""
    return re.findall(r"'eval_accuracy': ([\d.]+), 'eval_loss': ([\d.]+)", said)[-1]


@pytest.fixture(scope="module")
def killed(reader):
    """Where the page's program was killed in the middle, and started again; and what it said then."""
    first = reader.read_and_kill(NAME, num_blocks=1, killed_at=KILLED_AT)
    assert first.exit == -signal.SIGKILL, first.said
    (first.directory / "train.py").write_text(python_blocks(PAGE)[0].text, encoding="utf-8")
    again = subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=first.directory,
        env={**os.environ, "HOME": str(first.directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    reader.read(NAME)  # meanwhile, for a machine has more than one core
    said, complaints = again.communicate(timeout=250)
    assert again.returncode == 0, complaints
    return first.directory, said


def test_its_blocks_run_one_after_another(killed, reader):
    reading = reader.read(NAME)
    assert reading.exit == 0, reading.said


def test_the_killed_training_ends_as_the_other(killed, reader):
    directory, said = killed
    whole = reader.read(NAME)
    assert measured(said) == measured(whole.said)
    assert float(measured(said)[0]) > 0.88
    (run,) = json.loads(loopwright("runs", "out", "--json", cwd=directory).stdout)
    assert [attempt["status"] for attempt in run["attempts"]] == ["killed", "completed"]


def test_its_curve_has_each_point_once(killed):
    points = readback.tensorboard(killed[0] / "out" / "runs")
    losses = {step: values for (name, step), values in points.items() if name == "train/loss"}
    assert sorted(losses) == list(range(50, 851, 50))
    assert all(values.total() == 1 for values in losses.values())


def test_the_page_shows_what_show_prints(killed):
    (listing,) = (block.text for block in blocks_of(PAGE) if "loss by step" in block.text)
    shown = loopwright("show", "out", columns=80, cwd=killed[0])
    assert shown.returncode == 0, shown.stderr
    # Times and digits are those of one day and one machine; names, headings and arguments are not.
    words = [set(re.findall(r"[A-Za-z_]{3,}", text)) for text in (listing, shown.stdout)]
    assert words[0] - words[1] == set()
    assert {"Attempts", "completed", "eval_accuracy", "learning_rate"} <= words[0]


def test_the_page_draws_a_report(killed):
    directory = killed[0]
    written = loopwright("report", "out", cwd=directory)
    assert written.stdout == "out/report.html\n"
    text = (directory / "out" / "report.html").read_text(encoding="utf-8")
    assert "eval_accuracy" in text
    assert "killed" in text
