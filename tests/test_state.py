"""Where a run is, what comes next, and the file that both libraries read."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from loopwright.callbacks.early_stopping import EarlyStoppingCallback
from loopwright.state import (
    CONTROL_FLAGS,
    ExportableState,
    TrainerControl,
    TrainerState,
    collect_states,
    is_exportable,
)

THEIRS = transformers.TrainerState
FILLED = {
    "epoch": 1.25,
    "global_step": 10,
    "max_steps": 16,
    "logging_steps": 5,
    "eval_steps": 2,
    "save_steps": 4,
    "train_batch_size": 8,
    "num_train_epochs": 2,
    "num_input_tokens_seen": 1234,
    "total_flos": 1.5e12,
    "log_history": [{"loss": 0.1 + 0.2, "step": 5}, {"eval_loss": 1e-300, "step": 6, "note": "größe"}],
    "best_metric": 0.5,
    "best_global_step": 6,
    "best_model_checkpoint": "out/checkpoint-6",
    "is_local_process_zero": False,
    "is_world_process_zero": False,
    "is_hyper_param_search": True,
    "trial_name": "trial 1",
    "trial_params": {"lr": 0.1},
    "stateful_callbacks": {"TrainerControl": TrainerControl().state()},
}


def fields_of(state):
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


# The file


def test_the_fields_are_those_of_transformers():
    assert [field.name for field in dataclasses.fields(TrainerState)] == [
        field.name for field in dataclasses.fields(THEIRS)
    ]
    assert fields_of(TrainerState()) | {"epoch": 0} == fields_of(THEIRS())


def test_both_libraries_write_the_same_values_in_the_same_order(tmp_path):
    assert set(FILLED) == {field.name for field in dataclasses.fields(TrainerState)}
    for kind in (TrainerState, THEIRS):
        kind(**FILLED).save_to_json(str(tmp_path / kind.__module__))
    ours, theirs = (json.loads((tmp_path / kind.__module__).read_text()) for kind in (TrainerState, THEIRS))
    assert json.dumps(ours) == json.dumps(theirs)


def test_each_field_and_each_log_line_has_a_line_of_the_file():
    lines = TrainerState(**FILLED).to_json().splitlines()
    assert lines[0] + lines[-1] == "{}"
    assert lines[10:14] == [
        '  "log_history": [',
        '    {"loss": 0.30000000000000004, "step": 5},',
        '    {"eval_loss": 1e-300, "note": "gr\\u00f6\\u00dfe", "step": 6}',
        "  ],",
    ]
    assert len(lines) == 2 + len(FILLED) - 1 + 4
    assert [line.partition(":")[0].strip(' "') for line in lines[1:10]] == sorted(FILLED)[:9]
    assert '  "log_history": [],' in TrainerState().to_json().splitlines()


@pytest.mark.parametrize(("writer", "reader"), [(TrainerState, THEIRS), (THEIRS, TrainerState), (TrainerState,) * 2])
def test_each_library_reads_what_the_other_wrote(writer, reader, tmp_path):
    writer(**FILLED).save_to_json(str(tmp_path / "state.json"))
    assert fields_of(reader.load_from_json(str(tmp_path / "state.json"))) == FILLED


def test_non_finite_numbers_survive_the_file(tmp_path):
    history = [{"loss": math.nan, "grad_norm": math.inf, "low": -math.inf}]
    TrainerState(log_history=history, best_metric=math.nan).save_to_json(tmp_path / "state.json")
    for kind in (TrainerState, THEIRS):
        read = kind.load_from_json(str(tmp_path / "state.json"))
        assert math.isnan(read.best_metric)
        assert math.isnan(read.log_history[0]["loss"])
        assert (read.log_history[0]["grad_norm"], read.log_history[0]["low"]) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (torch.tensor(1.5), 1.5),
    ],
)
def test_numbers_of_numpy_and_torch_are_written_as_plain_ones(value, plain, tmp_path):
    TrainerState(log_history=[{"value": value}]).save_to_json(tmp_path / "state.json")
    (line,) = TrainerState.load_from_json(tmp_path / "state.json").log_history
    assert line == {"value": plain}
    assert type(line["value"]) is type(plain)


@pytest.mark.parametrize("value", [object(), np.ones(3), torch.ones(1)])
def test_what_is_no_number_is_named_and_the_old_file_stays(value, tmp_path):
    file = tmp_path / "state.json"
    TrainerState(global_step=1).save_to_json(file)
    with pytest.raises(TypeError, match=type(value).__name__):
        TrainerState(global_step=2, log_history=[{"value": value}]).save_to_json(file)
    assert TrainerState.load_from_json(file).global_step == 1
    assert list(tmp_path.iterdir()) == [file]


def test_keys_of_another_version_are_left_out_and_missing_ones_have_their_defaults(tmp_path):
    file = tmp_path / "state.json"
    file.write_text(json.dumps({"global_step": 3, "from_the_future": 1}))
    state = TrainerState.load_from_json(file)
    assert state == TrainerState(global_step=3)
    assert not hasattr(state, "from_the_future")


def test_two_states_share_nothing():
    one, other = TrainerState(), TrainerState()
    one.log_history.append({})
    one.stateful_callbacks["x"] = {}
    assert (other.log_history, other.stateful_callbacks) == ([], {})


# Cadence


@pytest.mark.parametrize("max_steps", [1, 7, 100, 1001])
@pytest.mark.parametrize("steps", [(0.1, 0.25, 0.5), (1, 2, 3), (500, None, 0.999), (1.0, 10, 1e-9)])
def test_steps_are_computed_as_transformers_computes_them(steps, max_steps):
    args = SimpleNamespace(logging_steps=steps[0], eval_steps=steps[1], save_steps=steps[2])
    found = []
    for kind in (TrainerState, THEIRS):
        state = kind()
        state.compute_steps(args, max_steps)
        found.append((state.logging_steps, state.eval_steps, state.save_steps))
    assert found[0] == found[1]


# Callbacks' states


class Mine(ExportableState):
    def __init__(self, size=1):
        self.size = size
        self.seen = 0

    def state(self):
        return {"args": {"size": self.size}, "attributes": {"seen": self.seen}}


class Foreign:
    def state(self):
        return {"args": {}, "attributes": {}}

    @classmethod
    def from_state(cls, state):
        return cls()


def test_states_are_laid_out_as_transformers_lays_them_out():
    control, theirs_control = TrainerControl(should_save=True), transformers.TrainerControl(should_save=True)
    stopping = [transformers.EarlyStoppingCallback(patience) for patience in (1, 2, 3)]
    ours = TrainerState(stateful_callbacks=[control, *(EarlyStoppingCallback(patience) for patience in (1, 2, 3))])
    theirs = THEIRS(stateful_callbacks=[theirs_control, *stopping])
    assert ours.stateful_callbacks == theirs.stateful_callbacks
    assert len(ours.stateful_callbacks["EarlyStoppingCallback"]) == 3
    assert isinstance(ours.stateful_callbacks["TrainerControl"], dict)


def test_a_thing_without_a_state_is_refused_by_name():
    for kind in (TrainerState, THEIRS):
        with pytest.raises(TypeError, match="SimpleNamespace"):
            kind(stateful_callbacks=[SimpleNamespace()])


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (Mine(), True),
        (Foreign(), True),
        (TrainerControl(), True),
        (transformers.TrainerControl(), True),
        (transformers.EarlyStoppingCallback(), True),
        (transformers.PrinterCallback(), False),
        (SimpleNamespace(state=dict, from_state=dict), False),
    ],
)
def test_what_has_a_state_is_told_by_its_methods(thing, expected):
    assert is_exportable(thing) is expected


def test_a_state_builds_an_equal_object():
    original = Mine(4)
    original.seen = 9
    twin = Mine.from_state(json.loads(json.dumps(original.state())))
    assert vars(twin) == vars(original)


def test_a_class_that_forgot_its_state_is_named():
    class Forgetful(ExportableState):
        pass

    with pytest.raises(NotImplementedError, match="Forgetful"):
        collect_states([Forgetful()])


# Control


def test_control_has_the_flags_of_transformers_and_their_state():
    assert [field.name for field in dataclasses.fields(transformers.TrainerControl)] == list(CONTROL_FLAGS)
    assert TrainerControl().state() == transformers.TrainerControl().state()
    control = TrainerControl(should_epoch_stop=True, should_log=True)
    assert TrainerControl.from_state(control.state()) == control


@pytest.mark.parametrize("reset", ["_new_training", "_new_epoch", "_new_step"])
def test_flags_fall_when_those_of_transformers_do(reset):
    controls = [kind(*[True] * 5) for kind in (TrainerControl, transformers.TrainerControl)]
    for control in controls:
        getattr(control, reset)()
    assert controls[0].state() == controls[1].state()
    assert False in controls[0].state()["args"].values()
