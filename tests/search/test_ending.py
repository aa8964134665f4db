"""A search that is ended from outside: what its journals and its study hold then, and how it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from loopwright import TrainerCallback
from loopwright.checkpoint import list_checkpoints
from loopwright.errors import Preempted
from tests.search.searching import Network, build, ends, space, stored

KILLED = """
import os, signal, sys
from pathlib import Path
from loopwright import TrainerCallback
from tests.search.searching import build, space, stored

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.trial_name == "run-1" and state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
build(folder / "out", callbacks=[Kill()]).hyperparameter_search(space, n_trials=4, **stored(folder / "study.db"))
"""


class Signal(TrainerCallback):
    """Sends the process a signal at an event of trial 1."""

    def __init__(self, event, number=signal.SIGTERM):
        def listen(args, state, control, **kwargs):
            if state.trial_name == "run-1" and state.global_step >= 4:
                os.kill(os.getpid(), number)

        setattr(self, event, listen)


def trial_states(options):
    study = optuna.load_study(study_name=options["study_name"], storage=options["storage"])
    return [trial.state.name for trial in study.trials]


def test_a_killed_search_goes_on_and_the_trial_killed_midway_counts_as_failed(tmp_path, caplog):
    options = stored(tmp_path / "study.db")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    finished = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, timeout=100, check=False
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert trial_states(options) == ["COMPLETE", "RUNNING"]

    trainer = build(tmp_path / "out")
    # As many as are left; "until there are four" is Optuna's own to say.
    most = optuna.study.MaxTrialsCallback(4, states=None)
    trainer.hyperparameter_search(space, n_trials=None, callbacks=[most], **options)
    assert trial_states(options) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert "trial 1 was killed midway: it counts as failed" in caplog.text
    assert [status for status, _ in ends(tmp_path / "out")] == ["killed", "completed"]
    # Nobody went on in the killed trial's folder.
    assert [path.name for path in list_checkpoints(tmp_path / "out" / "run-1")] == ["checkpoint-3"]
    assert [status for status, _ in ends(tmp_path / "out" / "run-1")] == ["killed"]


def test_a_trial_that_another_process_is_at_is_left_alone(tmp_path):
    options = stored(tmp_path / "study.db")
    seen = []

    class SearchToo(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if state.trial_name == "run-0":
                build(tmp_path / "out").hyperparameter_search(space, n_trials=1, **options)
                seen.append(trial_states(options))

    build(tmp_path / "out", callbacks=[SearchToo()]).hyperparameter_search(space, n_trials=1, **options)
    assert seen == [["RUNNING", "COMPLETE"]]
    assert trial_states(options) == ["COMPLETE", "COMPLETE"]


def test_sigterm_saves_the_trial_and_leaves(tmp_path):
    options = stored(tmp_path / "study.db")
    trainer = build(tmp_path / "out", callbacks=[Signal("on_step_end")])
    before = dict(vars(trainer.args))
    with pytest.raises(Preempted) as left:
        trainer.hyperparameter_search(space, n_trials=5, **options)
    assert left.value.code == 128 + signal.SIGTERM
    assert vars(trainer.args) == before
    assert trial_states(options) == ["COMPLETE", "FAIL"]
    assert ends(tmp_path / "out" / "run-1") == [("preempted", "SIGTERM at step 4")]
    assert ends(tmp_path / "out") == [("preempted", "SIGTERM at step 4")]
    assert list_checkpoints(tmp_path / "out" / "run-1")[-1].name == "checkpoint-4"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_with_return_gives_the_best_so_far(tmp_path):
    options = stored(tmp_path / "study.db")
    trainer = build(tmp_path / "out", callbacks=[Signal("on_step_end")], signal_action="return")
    assert trainer.hyperparameter_search(space, n_trials=5, **options).run_id == "0"
    assert trial_states(options) == ["COMPLETE", "FAIL"]
    assert ends(tmp_path / "out") == [("preempted", "SIGTERM")]


def test_sigterm_before_the_training_begins_none(tmp_path):
    options = stored(tmp_path / "study.db")

    def hp_space(trial):
        if trial.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return space(trial)

    with pytest.raises(Preempted):
        build(tmp_path / "out").hyperparameter_search(hp_space, n_trials=5, **options)
    assert trial_states(options) == ["COMPLETE", "FAIL"]
    assert not (tmp_path / "out" / "run-1" / "journal.db").exists()


def test_sigterm_in_model_init_ends_the_trial_at_its_first_evaluation(tmp_path):
    options = stored(tmp_path / "study.db")

    def model_init(trial):
        if trial is not None and trial.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return Network()

    with pytest.raises(Preempted):
        build(tmp_path / "out", model_init=model_init).hyperparameter_search(space, n_trials=5, **options)
    assert trial_states(options) == ["COMPLETE", "FAIL"]
    assert [path.name for path in list_checkpoints(tmp_path / "out" / "run-1")] == ["checkpoint-3"]


def test_sigterm_after_the_training_lets_the_trial_be_measured_and_begins_no_other(tmp_path):
    options = stored(tmp_path / "study.db")
    callback = Signal("on_evaluate")  # the evaluation after the training
    trainer = build(tmp_path / "out", callbacks=[callback], eval_strategy="no")
    with pytest.raises(Preempted):
        trainer.hyperparameter_search(space, n_trials=5, **options)
    assert trial_states(options) == ["COMPLETE", "COMPLETE"]
    assert ends(tmp_path / "out")[0][0] == "preempted"
