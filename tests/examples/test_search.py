"""The search of hyper-parameters, run as its first lines say: real images, a real process, a real study."""

from __future__ import annotations

import re

import optuna

from tests.examples.running import run_example


def search(folder, *options):
    return run_example("search.py", folder, *options).stdout


def test_the_search_finds_something_good_and_goes_on_in_its_study(tmp_path):
    shown = search(tmp_path, "--trials", "4")
    assert len(re.findall(r"^run-\d+ · learning_rate=", shown, flags=re.MULTILINE)) == 4
    reached = float(re.search(r"trained again with these: ([0-9.]+)%", shown).group(1))
    assert reached >= 90
    assert "run-4 · " in search(tmp_path, "--trials", "1")
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}")
    assert len(study.trials) == 5
    assert {"learning_rate", "lr_scheduler_type", "width"} == set(study.best_params)
