"""Early stopping, compared live with transformers'."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import transformers

from loopwright.callbacks.early_stopping import EarlyStoppingCallback
from loopwright.errors import ArgumentError
from loopwright.state import TrainerControl, TrainerState


def arguments(**options):
    defaults = {
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "eval_strategy": "steps",
        "load_best_model_at_end": True,
    }
    return SimpleNamespace(**(defaults | options))


def follow(kind, values, greater_is_better, **options):
    """Return counter and stop flag after each evaluation, the best metric kept as the Trainer keeps it."""
    callback, state = kind(**options), TrainerState()
    args = arguments(greater_is_better=greater_is_better)
    trace = []
    for value in values:
        control = TrainerControl()
        callback.on_evaluate(args, state, control, metrics={"eval_loss": value})
        trace.append((callback.early_stopping_patience_counter, control.should_training_stop))
        better = np.greater if greater_is_better else np.less
        if state.best_metric is None or better(value, state.best_metric):
            state.best_metric = value
    return trace


@pytest.mark.parametrize("greater_is_better", [False, True, None])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, -0.2])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_it_counts_and_stops_as_transformers_does(patience, threshold, greater_is_better):
    source = random.Random(f"{patience} {threshold} {greater_is_better}")
    special = [math.nan, math.inf, -math.inf, 0, np.float32(0.1), np.float64(0.3)]
    stopped = 0
    for _ in range(60):
        values = [
            source.choice(special) if source.random() < 0.15 else round(source.uniform(-1, 1), 1) for _ in range(12)
        ]
        options = {"early_stopping_patience": patience, "early_stopping_threshold": threshold}
        with np.errstate(invalid="ignore"):
            ours = follow(EarlyStoppingCallback, values, greater_is_better, **options)
            theirs = follow(transformers.EarlyStoppingCallback, values, greater_is_better, **options)
        assert ours == theirs, values
        stopped += ours[-1][1]
    assert stopped


def test_the_defaults_are_those_of_transformers():
    assert EarlyStoppingCallback().state() == transformers.EarlyStoppingCallback().state()


def test_a_run_of_nan_runs_out_of_patience():
    trace = follow(EarlyStoppingCallback, [1.0, math.nan, math.nan], False, early_stopping_patience=2)
    assert trace == [(0, False), (1, False), (2, True)]


def test_a_threshold_of_none_is_no_threshold():
    values = [1.0, 0.9, 0.9, 0.95]
    assert follow(EarlyStoppingCallback, values, False, early_stopping_threshold=None) == follow(
        EarlyStoppingCallback, values, False
    )


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy"])
def test_the_metric_is_found_with_and_without_its_prefix(name):
    callback, control = EarlyStoppingCallback(), TrainerControl()
    args = arguments(metric_for_best_model=name, greater_is_better=True)
    callback.on_evaluate(args, TrainerState(best_metric=0.9), control, metrics={"eval_accuracy": 0.5})
    assert control.should_training_stop


def test_an_evaluation_without_the_metric_is_not_counted_and_is_said(caplog):
    callback, control = EarlyStoppingCallback(), TrainerControl()
    callback.on_evaluate(arguments(), TrainerState(best_metric=0.0), control, metrics={"eval_accuracy": 0.5})
    assert callback.early_stopping_patience_counter == 0
    assert not control.should_training_stop
    assert "eval_loss" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [({"metric_for_best_model": None}, "metric_for_best_model"), ({"eval_strategy": "no"}, "eval_strategy")],
)
def test_arguments_that_leave_nothing_to_judge_by_are_refused(options, words):
    with pytest.raises(ArgumentError, match=words):
        EarlyStoppingCallback().on_train_begin(arguments(**options), TrainerState(), TrainerControl())


@pytest.mark.parametrize("strategy", ["steps", "epoch", transformers.IntervalStrategy.EPOCH])
def test_arguments_that_suffice_are_accepted_in_silence(strategy, caplog):
    EarlyStoppingCallback().on_train_begin(arguments(eval_strategy=strategy), TrainerState(), TrainerControl())
    assert not caplog.records


def test_keeping_the_last_weights_instead_of_the_best_is_warned_about(caplog):
    args = arguments(load_best_model_at_end=False)
    EarlyStoppingCallback().on_train_begin(args, TrainerState(), TrainerControl())
    assert "load_best_model_at_end" in caplog.text


@pytest.mark.parametrize("patience", [0, -1])
def test_patience_below_one_is_refused(patience):
    with pytest.raises(ArgumentError, match=f"early_stopping_patience={patience}: expected"):
        EarlyStoppingCallback(early_stopping_patience=patience)


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (EarlyStoppingCallback, EarlyStoppingCallback),
        (EarlyStoppingCallback, transformers.EarlyStoppingCallback),
        (transformers.EarlyStoppingCallback, EarlyStoppingCallback),
    ],
)
def test_its_state_goes_through_json_and_between_the_libraries(writer, reader):
    written = writer(early_stopping_patience=5, early_stopping_threshold=0.25)
    written.early_stopping_patience_counter = 3
    read = reader.from_state(json.loads(json.dumps(written.state())))
    assert read.state() == written.state()
    assert (read.early_stopping_patience, read.early_stopping_patience_counter) == (5, 3)
