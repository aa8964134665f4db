"""The short programs, each run as its first lines say: real data, a real process."""

from __future__ import annotations

import re

from tests.examples.running import run_example


def test_texts_are_told_apart(tmp_path):
    shown = run_example("docstrings.py", tmp_path, "--epochs", "2").stdout
    assert float(re.search(r"not seen, ([0-9.]+)% were told right", shown)[1]) > 85


def test_intervals_hold_about_as_many_as_they_should(tmp_path):
    shown = run_example("quantiles.py", tmp_path).stdout
    covered, error = re.search(r"(\d+)% of 133 patients .* off by (\d+) on", shown).groups()
    assert 60 <= int(covered) <= 95
    assert int(error) < 55  # who says the mean of all is off by 65


def test_a_stream_is_gone_on_with_and_the_model_learns_to_write(tmp_path):
    shown = run_example("characters.py", tmp_path, "--steps", "40").stdout
    perplexities = [float(text) for text in re.findall(r"perplexity ([0-9.]+): 'The ", shown)]
    assert len(perplexities) == 4
    assert perplexities[-1] < perplexities[0] < 100
    again = run_example("characters.py", tmp_path, "--steps", "60").stdout
    assert re.findall(r"step (\d+), perplexity", again) == ["45", "60"]
