"""The short programs, each run as its first lines say: real data, a real process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, folder, *options):
    finished = subprocess.run(
        [sys.executable, EXAMPLES / name, "--output-dir", "run", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_texts_are_told_apart(tmp_path):
    shown = run("docstrings.py", tmp_path, "--epochs", "2")
    assert float(re.search(r"not seen, ([0-9.]+)% were told right", shown)[1]) > 85


def test_intervals_hold_about_as_many_as_they_should(tmp_path):
    shown = run("quantiles.py", tmp_path)
    covered, error = re.search(r"(\d+)% of 133 patients .* off by (\d+) on", shown).groups()
    assert 60 <= int(covered) <= 95
    assert int(error) < 55  # who says the mean of all is off by 65


def test_a_stream_is_gone_on_with_and_the_model_learns_to_write(tmp_path):
    shown = run("characters.py", tmp_path, "--steps", "40")
    perplexities = [float(text) for text in re.findall(r"perplexity ([0-9.]+): 'The ", shown)]
    assert len(perplexities) == 4
    assert perplexities[-1] < perplexities[0] < 100
    again = run("characters.py", tmp_path, "--steps", "60")
    assert re.findall(r"step (\d+), perplexity", again) == ["45", "60"]
