"""Callback states go into a checkpoint and come back into the same objects."""

from __future__ import annotations

import json

import numpy as np
import pytest
import transformers

from loopwright.callbacks.base import TrainerCallback
from loopwright.callbacks.early_stopping import EarlyStoppingCallback
from loopwright.callbacks.persistence import capture_states, restore_states
from loopwright.state import ExportableState, TrainerControl


class Counter(TrainerCallback, ExportableState):
    def __init__(self, every=10, names=("a", "b")):
        self.every = every
        self.names = names
        self.seen = 0

    def state(self):
        return {"args": {"every": self.every, "names": self.names}, "attributes": {"seen": self.seen}}


class KeepsAllInArgs(TrainerCallback, ExportableState):
    """The seed of many a callback in the wild: what changes is among the arguments."""

    def __init__(self, limit=5, seen=0):
        self.limit = limit
        self.seen = seen

    def state(self):
        return {"args": {"limit": self.limit, "seen": self.seen}, "attributes": {}}


class Hides(TrainerCallback, ExportableState):
    """Stores its argument under another name."""

    def __init__(self, best=0.0):
        self._best = best

    def state(self):
        return {"args": {"best": self._best}, "attributes": {}}


class Converts(TrainerCallback):
    """Belongs to nobody, and has a form of its own for JSON."""

    def __init__(self):
        self.window = np.zeros(2)

    def state(self):
        return {"args": {}, "attributes": {"window": self.window.tolist()}}

    @classmethod
    def from_state(cls, state):
        instance = cls()
        instance.window = np.array(state["attributes"]["window"])
        return instance


def through_json(states):
    return json.loads(json.dumps(states))


def resume(begun, at_save, resumed):
    """Restore into `resumed` what began as `begun` and was saved as `at_save`."""
    restore_states(resumed, through_json(capture_states(at_save)), through_json(capture_states(begun)))
    return resumed


def advanced(callback, **attributes):
    vars(callback).update(attributes)
    return callback


def test_only_callbacks_with_a_state_are_captured():
    states = capture_states([TrainerCallback(), Counter(), transformers.TrainerCallback(), EarlyStoppingCallback()])
    assert list(states) == ["Counter", "EarlyStoppingCallback"]


def test_a_state_is_restored_into_the_same_object():
    callback = Counter()
    handle = callback.handle = object()
    callbacks = [TrainerCallback(), callback]
    resume([Counter()], [advanced(Counter(), seen=7)], callbacks)
    assert callbacks[1] is callback
    assert (callback.seen, callback.every) == (7, 10)
    assert callback.handle is handle


def test_several_instances_of_a_class_take_theirs_in_order():
    begun = [Counter(1), EarlyStoppingCallback(), Counter(2)]
    saved = [advanced(Counter(1), seen=11), EarlyStoppingCallback(), advanced(Counter(2), seen=22)]
    first, second = Counter(1), Counter(2)
    resume(begun, saved, [first, second, EarlyStoppingCallback()])
    assert (first.seen, second.seen) == (11, 22)


@pytest.mark.parametrize(("count", "warns"), [(0, True), (1, True), (2, False), (3, False)])
def test_states_without_an_instance_are_warned_about(count, warns, caplog):
    saved = [advanced(Counter(), seen=1), advanced(Counter(), seen=2)]
    resumed = resume([Counter(), Counter()], saved, [Counter() for _ in range(count)])
    assert [callback.seen for callback in resumed] == [1, 2, 0][:count]
    assert (f"holds 2 state(s) of Counter; this run has {count}" in caplog.text) == warns


def test_values_that_change_among_the_arguments_are_restored(caplog):
    (callback,) = resume([KeepsAllInArgs()], [advanced(KeepsAllInArgs(), seen=4)], [KeepsAllInArgs()])
    assert (callback.limit, callback.seen) == (5, 4)
    assert not caplog.records


def test_an_argument_that_the_script_changed_stands_and_the_others_are_restored(caplog):
    (callback,) = resume([KeepsAllInArgs()], [advanced(KeepsAllInArgs(), seen=4)], [KeepsAllInArgs(limit=8)])
    assert (callback.limit, callback.seen) == (8, 4)
    assert "{'limit': 8}" in caplog.text


def test_attributes_are_restored_also_where_an_argument_was_changed(caplog):
    (callback,) = resume([Counter(10)], [advanced(Counter(10), seen=7)], [Counter(20)])
    assert (callback.every, callback.seen) == (20, 7)
    assert caplog.text.count("Counter was saved with other arguments") == 1


def test_arguments_that_only_json_changed_are_not_taken_for_others(caplog):
    callback = Counter(every=np.int64(3), names=("a", "b"))
    state = through_json(advanced(Counter(3), seen=1).state())
    restore_states([callback], {"Counter": state}, {"Counter": through_json(Counter(3).state())})
    assert (callback.seen, callback.names) == (1, ("a", "b"))
    (other,) = resume([Hides(float("nan"))], [Hides(1.0)], [Hides(float("nan"))])
    assert other._best == 1.0
    assert not caplog.records


def test_where_the_beginning_is_unknown_the_scripts_arguments_stand(caplog):
    # A checkpoint that transformers wrote says what was saved, not what the run began with.
    saved = advanced(transformers.EarlyStoppingCallback(3), early_stopping_patience_counter=2)
    callback = EarlyStoppingCallback(5)
    restore_states([callback], through_json(capture_states([saved])), None)
    assert (callback.early_stopping_patience, callback.early_stopping_patience_counter) == (5, 2)
    assert "{'early_stopping_patience': 5}" in caplog.text


def test_an_argument_stored_under_another_name_is_restored_through_the_class():
    callback = Hides()
    resume([Hides()], [Hides(0.75)], [callback])
    assert callback._best == 0.75


def test_a_class_with_a_from_state_of_its_own_uses_it():
    callback = Converts()
    callback.handle = handle = object()
    resume([Converts()], [advanced(Converts(), window=np.ones(2))], [callback])
    assert isinstance(callback.window, np.ndarray)
    assert callback.window.tolist() == [1.0, 1.0]
    assert callback.handle is handle


@pytest.mark.parametrize("kind", [TrainerControl, transformers.TrainerControl])
def test_the_control_takes_its_flags_back_without_a_word(kind, caplog):
    control = kind()
    states = through_json(capture_states([TrainerControl(should_training_stop=True, should_log=True)]))
    restore_states([control], states, {})
    assert (control.should_training_stop, control.should_log, control.should_save) == (True, True, False)
    assert not caplog.records


def test_nothing_saved_changes_nothing():
    callback = advanced(Counter(), seen=3)
    restore_states([callback], {}, None)
    assert callback.seen == 3
