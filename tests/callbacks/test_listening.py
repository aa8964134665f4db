"""Which events a callback really answers, whatever it is made of."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import transformers

from loopwright.callbacks.base import TrainerCallback
from loopwright.callbacks.events import Event
from loopwright.callbacks.listening import ObservedList, answered_events


def nothing(*args, **kwargs):
    pass


class OnlyDocumented(TrainerCallback):
    def on_log(self, args, state, control, **kwargs):
        """Says what it would do."""

    def on_save(self, args, state, control, logs=None, **kwargs): ...

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        return

    def on_epoch_end(self, args, state, control, **kwargs):
        return None


class Counts(TrainerCallback):
    seen = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.seen += 1


class CountsMore(Counts):
    def on_log(self, args, state, control, **kwargs):
        return control


class SilencesItsBase(Counts):
    def on_step_end(self, args, state, control, **kwargs):
        pass


class Theirs(transformers.TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        self.ended = True


class BelongsToNobody:
    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = True

    on_substep_end = staticmethod(print)
    on_predict = None


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (TrainerCallback, []),
        (transformers.TrainerCallback, []),
        (object, []),
        (OnlyDocumented, []),
        (SilencesItsBase, []),
        (Counts, ["on_step_end"]),
        (CountsMore, ["on_step_end", "on_log"]),
        (Theirs, ["on_train_end"]),
        (BelongsToNobody, ["on_train_begin", "on_substep_end"]),
        (transformers.trainer_callback.DefaultFlowCallback, ["on_epoch_end", "on_step_end"]),
    ],
)
def test_only_methods_that_do_something_are_found(kind, events):
    assert list(answered_events(kind())) == events


def test_methods_assigned_to_an_instance_are_found():
    callback = Counts()
    callback.on_log = lambda *args, **kwargs: print(args)
    callback.on_save = functools.partial(print, "saved")
    callback.on_step_end = nothing
    callback.on_predict = lambda *args, **kwargs: None
    assert list(answered_events(callback)) == ["on_save", "on_log"]


def test_a_decorated_method_is_called_even_if_it_decorates_nothing():
    class Decorated(TrainerCallback):
        @functools.wraps(nothing)
        def on_log(self, *args, **kwargs):
            return nothing(*args, **kwargs)

    assert list(answered_events(Decorated())) == ["on_log"]


def test_every_event_of_a_callback_that_answers_all_is_found():
    everything = type("Everything", (), {event.value: lambda *args, **kwargs: print() for event in Event})
    assert list(answered_events(everything())) == [event.value for event in Event]


CHANGES = {
    "append": lambda items: items.append(9),
    "extend": lambda items: items.extend([9, 8]),
    "insert": lambda items: items.insert(0, 9),
    "remove": lambda items: items.remove(2),
    "pop": lambda items: items.pop(),
    "pop first": lambda items: items.pop(0),
    "clear": lambda items: items.clear(),
    "reverse": lambda items: items.reverse(),
    "sort": lambda items: items.sort(key=lambda item: -item),
    "set item": lambda items: items.__setitem__(0, 9),
    "set slice": lambda items: items.__setitem__(slice(1, None), [7]),
    "del item": lambda items: items.__delitem__(0),
    "del slice": lambda items: items.__delitem__(slice(0, 2)),
    "+=": lambda items: items.__iadd__([5]),
    "*=": lambda items: items.__imul__(2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_the_list_is_announced_once_and_done(change):
    seen = []
    observed = ObservedList([1, 2, 3], lambda: seen.append(list(observed)))
    plain = [1, 2, 3]
    assert (change(observed) is observed) == (change(plain) is plain)
    assert observed == plain
    assert seen == [plain]


def test_no_other_method_of_list_changes_it_unnoticed():
    reading = {"copy", "count", "index"}
    methods = {name for name in vars(list) if not name.startswith("__")} - reading
    changing = {"__setitem__", "__delitem__", "__iadd__", "__imul__"}
    assert methods | changing <= set(vars(ObservedList))


def test_a_change_that_fails_half_way_is_announced():
    def three_then_failure():
        yield 3
        raise KeyError

    seen = []
    observed = ObservedList([1], lambda: seen.append(list(observed)))
    with pytest.raises(KeyError):
        observed.extend(three_then_failure())
    assert seen == [[1, 3]]


def test_reading_the_list_announces_nothing():
    observed = ObservedList([2, 1], lambda: pytest.fail("announced"))
    assert (sorted(observed), observed[0], observed[:1], 2 in observed) == ([1, 2], 2, [2], True)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_is_a_plain_list(duplicate):
    twin = duplicate(ObservedList([1, 2], lambda: pytest.fail("announced")))
    twin.append(3)
    assert (type(twin), twin) == (list, [1, 2, 3])
