"""Scripts for transformers.Trainer as its documentation writes them: with one line changed they do the same."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).with_name("scripts")
MARK = "  # isort: skip -- the line that is changed"
# How fast it went; and operations, which the one estimates and the other counts.
OWN = re.compile(r".*_(runtime|per_second)|total_flos")


def run(name, library, directory, monkeypatch):
    """Run a script with the line's import taken from `library`; return its variables."""
    text = (SCRIPTS / f"{name}.py").read_text()
    (line,) = [line for line in text.splitlines() if line.endswith(MARK)]
    text = text.replace(line, line.replace("from transformers import", f"from {library} import", 1))
    directory.mkdir()
    monkeypatch.chdir(directory)
    variables = {"__name__": "__main__"}
    with warnings.catch_warnings():
        if library == "transformers":
            warnings.simplefilter("ignore")  # ours says nothing in these scripts
        exec(compile(text, f"{name}.py", "exec"), variables)
    return variables


def numbers(trainer):
    """Return the log lines without what is a library's own."""
    return [
        {name: value for name, value in line.items() if not OWN.fullmatch(name)} for line in trainer.state.log_history
    ]


@pytest.mark.parametrize(("name", "trainers"), [("fine_tuning", ["trainer"]), ("recipes", ["first", "third"])])
def test_a_script_says_the_same_with_one_line_changed(name, trainers, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    theirs, ours = (run(name, library, tmp_path / library, monkeypatch) for library in ("transformers", "loopwright"))
    for trainer in trainers:
        expected, found = numbers(theirs[trainer]), numbers(ours[trainer])
        if trainer == "third":  # resumed: they count its own steps alone there, ours all of the run's
            steps = [line["loss"] for line in found if "loss" in line]
            assert found[-1].pop("train_loss") == pytest.approx(sum(steps) / len(steps))
            assert expected[-1].pop("train_loss") == pytest.approx(sum(steps[-3:]) / 3)
        assert [sorted(line) for line in found] == [sorted(line) for line in expected]
        for line, other in zip(found, expected, strict=True):
            assert line == pytest.approx(other, rel=1e-4)
        assert ours[trainer].state.global_step == theirs[trainer].state.global_step
        assert ours[trainer].state.best_global_step == theirs[trainer].state.best_global_step
    if name == "recipes":
        assert ours["told"].events == theirs["told"].events
