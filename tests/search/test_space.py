"""What is searched for by default, and how a trial's values become arguments."""

from __future__ import annotations

import optuna
import pytest
import transformers.trainer_utils as theirs

from loopwright import TrainingArguments, default_compute_objective, default_hp_space_optuna
from loopwright._support import extras
from loopwright.errors import ArgumentError, MissingExtra, UnsupportedArgument
from loopwright.search.space import set_parameters


def tried(hp_space, number=5):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(number):
        trial = study.ask()
        found.append((hp_space(trial), trial.distributions))
    return found


def test_the_default_space_is_that_of_transformers():
    assert tried(default_hp_space_optuna) == tried(theirs.default_hp_space_optuna)


@pytest.mark.parametrize(
    "metrics",
    [
        {"eval_loss": 0.5, "epoch": 1.0, "eval_runtime": 2.0, "eval_samples_per_second": 3.0},
        {"eval_loss": 0.5, "eval_accuracy": 0.25, "eval_f1": 0.125, "epoch": 1.0, "eval_steps_per_second": 9.0},
        {"eval_accuracy": 0.25},
        {"eval_a_loss": 0.25, "eval_b_loss": 0.5, "eval_a_runtime": 1.0},
    ],
)
def test_the_default_objective_is_that_of_transformers(metrics):
    before = dict(metrics)
    assert default_compute_objective(metrics) == theirs.default_compute_objective(metrics)
    assert metrics == before


def test_an_evaluation_without_any_number_is_no_objective():
    with pytest.raises(ArgumentError, match="give hyperparameter_search a compute_objective"):
        default_compute_objective({"eval_runtime": 1.0})


def test_values_are_converted_as_at_any_assignment():
    args = TrainingArguments("out")
    set_parameters(args, {"learning_rate": "1e-3", "num_train_epochs": 2, "per_device_train_batch_size": 16.0})
    assert (args.learning_rate, args.num_train_epochs, args.train_batch_size) == (1e-3, 2, 16)
    assert isinstance(args.per_device_train_batch_size, int)


def test_what_follows_from_a_value_follows():
    args = TrainingArguments("out", eval_strategy="epoch")
    set_parameters(args, {"lr_scheduler_type": "reduce_lr_on_plateau"})
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)


@pytest.mark.parametrize(
    ("parameters", "kind", "words"),
    [
        ({"lerning_rate": 0.1}, ArgumentError, r"lerning_rate: .* no such field \(near it: learning_rate"),
        ({"num_layers": 3}, ArgumentError, r"num_layers: .*model_init\(trial\)"),
        ({"train_batch_size": 4}, ArgumentError, "train_batch_size"),  # a property, which can't be set
        ({"optim_args.momentum": 0.9}, ArgumentError, "'optim_args.momentum': expected the name of an argument"),
        ({"model/width": 4}, ArgumentError, "'model/width'"),
        ({3: 4}, ArgumentError, "gives 3"),
        ({"output_dir": "elsewhere"}, UnsupportedArgument, "output_dir: it is settled"),
        ({"deepspeed": "x"}, UnsupportedArgument, "deepspeed"),
        ({"learning_rate": "fast"}, ArgumentError, "learning_rate='fast': expected a number"),
        ({"fp16": True, "bf16": True}, ArgumentError, "expected one of them at most"),
        (None, ArgumentError, "hp_space returned None"),
    ],
)
def test_values_that_cannot_be_set_are_refused(parameters, kind, words):
    with pytest.raises(kind, match=words):
        set_parameters(TrainingArguments("out"), parameters)


def test_without_optuna_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "optuna")
    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[search\]"'):
        default_hp_space_optuna(None)
