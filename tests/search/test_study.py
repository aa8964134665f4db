"""A search with the real Optuna: what it returns, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import sqlite3

import optuna
import pytest
import torch
import transformers

from loopwright import BestRun, EarlyStoppingCallback, TrainerCallback
from loopwright._support import extras
from loopwright.checkpoint import list_checkpoints, load_loopwright_state
from loopwright.errors import (
    ArgumentError,
    CheckpointError,
    JournalBusy,
    MissingExtra,
    SearchError,
    UnsupportedArgument,
)
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from tests.search.searching import Network, build, ends, sampler, space, stored


class Note(TrainerCallback):
    """Keeps what each training is told."""

    def __init__(self):
        self.seen = []

    def on_train_end(self, args, state, control, **kwargs):
        self.seen.append((state.is_hyper_param_search, state.trial_name, state.trial_params, args.learning_rate))


class RaiseInTrial(TrainerCallback):
    def __init__(self, number, error):
        self.number, self.error = number, error

    def on_step_end(self, args, state, control, **kwargs):
        if state.trial_name == f"run-{self.number}":
            raise self.error


class Prunes(optuna.pruners.BasePruner):
    """Prunes trials by their number, at the second value that they report."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def prune(self, study, trial):
        return trial.number in self.numbers and len(trial.intermediate_values) == 2


def test_the_search_is_that_of_transformers(tmp_path):
    # The same values, objectives and best trial, to the last bit: the trainings are the same too.
    found = {}
    for name, library in (("ours", None), ("theirs", transformers)):
        trainer = build(tmp_path / name, library=library)
        best = trainer.hyperparameter_search(space, n_trials=3, sampler=sampler())
        several = trainer.hyperparameter_search(
            space,
            lambda metrics: [metrics["eval_loss"], metrics["epoch"]],
            n_trials=2,
            direction=["minimize", "maximize"],
            sampler=sampler(),
            hp_name=lambda trial: f"several-{trial.number}",
        )
        found[name] = (tuple(best), [tuple(one) for one in several])
        folders = {path.name for path in (tmp_path / name).glob("*/") if list_checkpoints(path)}
        assert folders == {"run-0", "run-1", "run-2", "several-0", "several-1"}
    assert found["ours"] == found["theirs"]


def test_each_trial_is_a_run_of_its_own_and_the_trainer_is_as_before(tmp_path):
    note = Note()
    trainer = build(tmp_path, callbacks=[note], save_total_limit=1)
    trainer.evaluate()
    before = (dict(vars(trainer.args)), trainer.state, trainer.run_id, dict(vars(trainer.control)))
    best = trainer.hyperparameter_search(space, n_trials=3, sampler=sampler())

    assert (dict(vars(trainer.args)), trainer.state, trainer.run_id, dict(vars(trainer.control))) == before
    assert (trainer.trial, trainer.search) == (None, None)
    assert [seen[:2] for seen in note.seen] == [(True, "run-0"), (True, "run-1"), (True, "run-2")]
    assert all(seen[2] == {"learning_rate": seen[3]} for seen in note.seen)
    runs = {}
    for number in range(3):
        directory = tmp_path / f"run-{number}"
        with JournalReader(directory) as reader:
            (run,) = reader.runs()
        runs[number] = run
        assert (run.trial_name, run.trial_parameters) == (f"run-{number}", note.seen[number][2])
        (checkpoint,) = list_checkpoints(directory)  # rotation is each trial's own
        assert load_loopwright_state(checkpoint)["run_id"] == run.id
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert (state["is_hyper_param_search"], state["trial_name"]) == (True, f"run-{number}")
        assert state["trial_params"] == note.seen[number][2]
    assert len({run.id for run in runs.values()}) == 3
    assert best.hyperparameters == runs[int(best.run_id)].trial_parameters

    with JournalReader(tmp_path) as reader:
        searching = next(run for run in reader.runs() if run.id == runs[0].parent_id)
        lines = [record.values for record in reader.records(searching.id, kinds=[Kind.LOG])]
    assert {run.search_id for run in runs.values()} == {searching.id}
    assert [line["trial"] for line in lines] == ["run-0", "run-1", "run-2"]
    assert min(line["objective"] for line in lines) == best.objective == lines[-1]["best_objective"]

    trainer.train()  # in output_dir, and no trial
    assert trainer.state.is_hyper_param_search is False
    with JournalReader(tmp_path) as reader:
        assert reader.run(trainer.run_id).trial_name is None
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9"]


def test_the_trial_reaches_model_init_and_its_seed_counts(tmp_path):
    made = []

    def model_init(trial=None):
        model = Network(4 if trial is None else trial.suggest_int("width", 2, 8))
        made.append((torch.initial_seed(), model.layers[0].out_features, None if trial is None else trial.params))
        return model

    trainer = build(tmp_path, model_init=model_init)
    best = trainer.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 1, 1000)}, n_trials=2)
    assert [(seed, width) for seed, width, _ in made[1:]] == [
        (params["seed"], params["width"]) for *_, params in made[1:]
    ]
    with JournalReader(tmp_path / f"run-{best.run_id}") as reader:
        assert reader.runs()[0].trial_parameters == best.hyperparameters
    assert set(best.hyperparameters) == {"seed", "width"}


def test_values_of_one_trial_are_not_left_to_the_next(tmp_path):
    note = Note()
    trainer = build(tmp_path, callbacks=[note], learning_rate=0.5)
    trainer.hyperparameter_search(lambda trial: {"learning_rate": 0.25} if trial.number == 0 else {}, n_trials=2)
    assert [seen[3] for seen in note.seen] == [0.25, 0.5]


def test_a_precision_that_is_tried_counts(tmp_path):
    found = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            with trainer.compute_loss_context_manager():
                found.append((args.bf16, torch.is_autocast_enabled("cpu")))

    trainer = build(tmp_path, callbacks=[Look()])
    trainer.hyperparameter_search(lambda trial: {"bf16": trial.number == 0}, n_trials=2)
    assert found == [(True, True), (False, False)]
    with trainer.compute_loss_context_manager():
        assert not torch.is_autocast_enabled("cpu")


def test_patience_of_one_trial_is_not_left_to_the_next(tmp_path):
    # At a learning rate of 0 nothing ever improves: the second evaluation of each trial is the last one.
    stopping = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = build(
        tmp_path, callbacks=[stopping], load_best_model_at_end=True, num_train_epochs=6, metric_for_best_model="loss"
    )
    steps = []
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": 0.0},
        n_trials=3,
        callbacks=[lambda study, trial: steps.append(max(trial.intermediate_values))],
    )
    assert steps == [6, 6, 6]
    assert stopping.early_stopping_patience_counter == 0
    reason = "step 6: EarlyStoppingCallback set should_training_stop in on_evaluate"
    assert [ends(tmp_path / f"run-{number}") for number in range(3)] == [[("stopped", reason)]] * 3


def test_a_pruned_trial_ends_in_order_and_says_who_ended_it(tmp_path):
    trainer = build(tmp_path)
    studies = []
    best = trainer.hyperparameter_search(
        space, n_trials=3, pruner=Prunes(1), callbacks=[lambda study, trial: studies.append(study)]
    )
    trials = studies[-1].trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [list(trial.intermediate_values) for trial in trials] == [[3, 6, 9], [3, 6], [3, 6, 9]]
    assert ends(tmp_path / "run-1") == [("stopped", "step 6: Prunes set should_training_stop in on_evaluate")]
    assert [path.name for path in list_checkpoints(tmp_path / "run-1")] == ["checkpoint-3", "checkpoint-6"]
    assert best.run_id != "1"


def test_without_evaluation_in_training_there_is_one_after_it(tmp_path):
    trainer = build(tmp_path, eval_strategy="no")
    best = trainer.hyperparameter_search(space, n_trials=1)
    with JournalReader(tmp_path / "run-0") as reader:
        (measured,) = [record.values for record in reader.records() if "eval_loss" in record.values]
    assert best.objective == measured["eval_loss"]


def test_a_study_in_a_file_is_gone_on_with(tmp_path):
    options = stored(tmp_path / "study.db")
    first = build(tmp_path / "out")
    first.hyperparameter_search(space, n_trials=2, sampler=sampler(), **options)
    second = build(tmp_path / "out")
    best = second.hyperparameter_search(space, n_trials=1, **options)
    study = optuna.load_study(study_name="study", storage=options["storage"])
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert best == BestRun(str(study.best_trial.number), study.best_value, study.best_params)
    assert ends(tmp_path / "out") == [("completed", None)] * 2
    with JournalReader(tmp_path / "out") as reader:
        (search,) = reader.runs()  # two attempts of one search
        assert [record.step for record in reader.records(search.id)] == [0, 1, 2]
    with pytest.raises(ArgumentError, match=r"direction=\['maximize'\]: the study 'study' has \['minimize'\]"):
        second.hyperparameter_search(space, n_trials=1, direction="maximize", **options)


def test_a_trial_that_raises_ends_the_search_and_is_named(tmp_path):
    trainer = build(tmp_path / "out", callbacks=[RaiseInTrial(1, ValueError("too much"))])
    before = dict(vars(trainer.args))
    options = stored(tmp_path / "study.db")
    with pytest.raises(ValueError, match=r"in trial 1 of the search, with {'learning_rate'"):
        trainer.hyperparameter_search(space, n_trials=5, **options)
    assert vars(trainer.args) == before
    assert ends(tmp_path / "out" / "run-1") == [("failed", "ValueError: too much")]
    ((status, reason),) = ends(tmp_path / "out")
    assert status == "failed"
    assert reason.startswith("ValueError: too much; ")
    assert "in trial 1 of the search" in reason
    study = optuna.load_study(study_name="study", storage=options["storage"])
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]


def test_a_trial_whose_error_is_caught_fails_alone(tmp_path):
    trainer = build(tmp_path, callbacks=[RaiseInTrial(1, ValueError("too much"))])
    states = []
    best = trainer.hyperparameter_search(
        space, n_trials=3, catch=(ValueError,), callbacks=[lambda study, trial: states.append(trial.state.name)]
    )
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert best.run_id in {"0", "2"}


def test_a_search_without_any_result_says_so(tmp_path):
    trainer = build(tmp_path, callbacks=[RaiseInTrial(0, ValueError("too much"))])
    with pytest.raises(SearchError, match=r"no trial of the study .* was completed"):
        trainer.hyperparameter_search(space, n_trials=1, catch=ValueError)
    assert trainer.search is None


@pytest.mark.parametrize(
    ("objective", "direction", "words"),
    [
        (lambda metrics: "much", "minimize", "compute_objective returned 'much': expected numbers"),
        (lambda metrics: [1.0, 2.0], "minimize", r"returned \[1.0, 2.0\]: expected 1 number"),
        (lambda metrics: 1.0, ["minimize", "maximize"], "returned 1.0: expected 2 number"),
    ],
)
def test_an_objective_that_does_not_fit_ends_the_search(tmp_path, objective, direction, words):
    with pytest.raises(ArgumentError, match=words):
        build(tmp_path).hyperparameter_search(space, objective, n_trials=2, direction=direction)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"backend": "ray"}, UnsupportedArgument, "backend='ray' is not supported: expected 'optuna'"),
        ({"backend": "wandb"}, UnsupportedArgument, "expected 'optuna'"),
        ({"backend": "sigopt"}, UnsupportedArgument, "expected 'optuna'"),
        ({"backend": "grid"}, UnsupportedArgument, "expected 'optuna'"),
        ({"n_jobs": 2}, UnsupportedArgument, "n_jobs=2 is not supported: .* start the program several times"),
        ({"n_jobs": -1}, UnsupportedArgument, "n_jobs=-1"),
        ({"direction": "up"}, ArgumentError, "direction='up': expected 'minimize' or 'maximize'"),
        ({"direction": []}, ArgumentError, r"direction=\[\]"),
        ({"sampller": None}, ArgumentError, "sampller: expected one of storage, sampler, "),
        ({"directions": ["minimize"]}, ArgumentError, "directions: expected one of"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(tmp_path, options, kind, words):
    trainer = build(tmp_path)
    with pytest.raises(kind, match=words):
        trainer.hyperparameter_search(space, n_trials=1, **options)
    assert not list(tmp_path.iterdir())


def test_transformers_own_word_for_the_backend_is_taken(tmp_path):
    backend = transformers.trainer_utils.HPSearchBackend.OPTUNA
    assert build(tmp_path).hyperparameter_search(space, n_trials=1, backend=backend).run_id == "0"


def test_a_trainer_without_model_init_cannot_search(tmp_path):
    trainer = build(tmp_path)
    trainer.model_init = None
    with pytest.raises(SearchError, match="needs the Trainer's argument model_init"):
        trainer.hyperparameter_search(space, n_trials=1)


def test_without_optuna_the_search_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "optuna")
    with pytest.raises(MissingExtra, match=r'hyperparameter_search needs .*pip install "loopwright\[search\]"'):
        build(tmp_path).hyperparameter_search(space, n_trials=1)


def test_nothing_to_evaluate_on_is_said_before_the_first_trial(tmp_path):
    trainer = build(tmp_path, eval_strategy="no")
    trainer.eval_dataset = None
    with pytest.raises(ArgumentError, match="needs an eval_dataset"):
        trainer.hyperparameter_search(space, n_trials=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", None, 3])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name):
    with pytest.raises(ArgumentError, match=r"hp_name gave .* for trial 0: expected a name that a folder can have"):
        build(tmp_path).hyperparameter_search(space, n_trials=1, hp_name=lambda trial: name)


def test_two_trials_of_one_name_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="hp_name gave 'same' for trial 1, and trial 0 has it"):
        build(tmp_path).hyperparameter_search(space, n_trials=2, hp_name=lambda trial: "same")


def test_two_searches_at_once_do_not_share_a_trials_folder(tmp_path):
    class SearchInside(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            build(tmp_path).hyperparameter_search(space, n_trials=1)

    with pytest.raises(JournalBusy, match="run-0"):
        build(tmp_path, callbacks=[SearchInside()]).hyperparameter_search(space, n_trials=1, catch=())


def test_train_by_hand_takes_an_optuna_trial_or_a_dict(tmp_path):
    widths = []
    trainer = build(tmp_path, model_init=lambda trial: widths.append(trial) or Network())
    fixed = optuna.trial.FixedTrial({"learning_rate": 0.25}, number=7)
    trainer.train(trial=fixed)
    assert widths[-1] is fixed
    state = trainer.state
    assert (state.is_hyper_param_search, state.trial_name, state.trial_params) == (True, "run-7", fixed.params)
    trainer.train(trial={"learning_rate": 0.5})
    state = trainer.state
    assert (state.is_hyper_param_search, state.trial_name) == (True, None)
    assert state.trial_params == {"learning_rate": 0.5}
    trainer.train()
    assert trainer.state.is_hyper_param_search is False
    with pytest.raises(ArgumentError, match="expected an Optuna trial, or a dict"):
        trainer.train(trial=3)


def test_a_trial_does_not_go_on_from_another_trials_checkpoint(tmp_path):
    trainer = build(tmp_path)
    trainer.train(trial={"learning_rate": 0.5})
    with pytest.raises(CheckpointError, match="is another trial's"):
        trainer.train(resume_from_checkpoint=True, trial={"learning_rate": 0.25})
    trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-6", trial={"learning_rate": 0.5})
    assert trainer.state.trial_params == {"learning_rate": 0.5}


def test_a_line_for_each_trial_and_a_table(tmp_path, capsys):
    build(tmp_path).hyperparameter_search(lambda trial: {"learning_rate": 0.0125}, n_trials=1)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("run-0 · objective ")
    assert line.endswith("(run-0)")
    build(tmp_path / "bars", disable_tqdm=False).hyperparameter_search(space, n_trials=2, sampler=sampler())
    shown = capsys.readouterr().err
    assert "run-1 · learning_rate=0.01398 · objective" in shown
    assert "Trials" in shown
    assert "Trial 0 finished" not in shown  # Optuna's own line, which says the same


def test_the_storage_holds_nothing_half_done(tmp_path):
    options = stored(tmp_path / "study.db")
    trainer = build(tmp_path / "out", callbacks=[RaiseInTrial(1, KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        trainer.hyperparameter_search(space, n_trials=5, **options)
    assert ends(tmp_path / "out" / "run-1")[0][0] == "interrupted"
    assert ends(tmp_path / "out")[0][0] == "interrupted"
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("select state from trials").fetchall() == [("COMPLETE",), ("FAIL",)]
    database.close()
