"""The handler: who is called when and with what, who decided what, what it cost, and what happens when one raises."""

from __future__ import annotations

import copy
import pickle
import sys
import time
from types import SimpleNamespace

import pytest
import transformers

from loopwright.callbacks.base import TrainerCallback
from loopwright.callbacks.dispatcher import CallbackHandler
from loopwright.callbacks.early_stopping import EarlyStoppingCallback
from loopwright.callbacks.events import Event
from loopwright.callbacks.flow import DefaultFlowCallback
from loopwright.state import TrainerControl, TrainerState

ARGS = SimpleNamespace(
    logging_first_step=False,
    logging_strategy="steps",
    eval_strategy="steps",
    save_strategy="steps",
    eval_delay=0,
    metric_for_best_model="loss",
    greater_is_better=False,
    load_best_model_at_end=True,
)
EVENTS = [event.value for event in Event]
HAS_ITS_OWN = {"on_evaluate": {"metrics": {"eval_loss": 1.0}}, "on_predict": {"metrics": {}}, "on_log": {"logs": {}}}


class Notes(TrainerCallback):
    """Notes every call in a list that several may share."""

    def __init__(self, name="notes", book=None):
        self.name = name
        self.book = [] if book is None else book

    def on_step_end(self, args, state, control, **kwargs):
        self.book.append(self.name)


class Sets(TrainerCallback):
    def __init__(self, **flags):
        self.flags = flags

    def on_step_end(self, args, state, control, **kwargs):
        for flag, value in self.flags.items():
            setattr(control, flag, value)
        return control


class Raises(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("no")

    def on_exception(self, args, state, control, exception, **kwargs):
        raise ValueError("again")


class AlsoThere(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        self.seen = True


def make(*callbacks, flow=True, **options):
    context = {"model": "model", "processing_class": "tokens", "optimizer": "adam", "lr_scheduler": "cosine"}
    return CallbackHandler([*([DefaultFlowCallback()] if flow else []), *callbacks], **context, **options)


def fire(handler, event="on_step_end", control=None, step=3):
    state = TrainerState(global_step=step, max_steps=10)
    control = TrainerControl() if control is None else control
    return getattr(handler, event)(ARGS, state, control, **HAS_ITS_OWN.get(event, {}))


# Order and context


def test_callbacks_run_in_the_order_of_the_list():
    book = []
    handler = make(*(Notes(name, book) for name in "abc"))
    fire(handler)
    handler.callbacks.reverse()
    fire(handler)
    assert "".join(book) == "abccba"


@pytest.mark.parametrize("event", [event for event in EVENTS if event != "on_exception"])
def test_each_event_hands_over_positions_and_keywords(event):
    seen = []
    listener = SimpleNamespace(**{event: lambda *args, **kwargs: seen.append((args, kwargs))})
    handler = make(listener, flow=False)
    handler.train_dataloader, handler.eval_dataloader = "train", "eval"
    state, control = TrainerState(max_steps=10), TrainerControl()
    own = HAS_ITS_OWN.get(event, {})
    assert getattr(handler, event)(ARGS, state, control, **own) is control
    ((positions, keywords),) = seen
    assert positions == (ARGS, state, control)
    assert keywords == {
        "model": "model",
        "processing_class": "tokens",
        "tokenizer": "tokens",
        "optimizer": "adam",
        "lr_scheduler": "cosine",
        "train_dataloader": "train",
        "eval_dataloader": "eval",
        **own,
    }


def test_what_is_assigned_to_the_handler_is_what_callbacks_receive():
    seen = []
    listener = SimpleNamespace(on_save=lambda *args, **kwargs: seen.append(kwargs))
    handler = make(listener)
    for name in ("model", "processing_class", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader"):
        setattr(handler, name, f"new {name}")
        assert getattr(handler, name) == f"new {name}"
    fire(handler, "on_save")
    assert seen[0]["tokenizer"] == seen[0]["processing_class"] == "new processing_class"
    assert seen[0]["eval_dataloader"] == "new eval_dataloader"


def test_keywords_that_a_callback_changes_are_its_own():
    class Greedy(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kwargs.clear()

    seen = []
    handler = make(Greedy(), SimpleNamespace(on_step_end=lambda *args, **kwargs: seen.append(kwargs)))
    fire(handler)
    fire(handler)
    assert [kwargs["model"] for kwargs in seen] == ["model", "model"]


def test_a_key_that_a_callback_adds_to_the_logs_is_seen_by_the_next_and_by_the_caller():
    class Adds(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logs["added"] = 1

    seen = []
    handler = make(Adds(), SimpleNamespace(on_log=lambda *args, logs, **kwargs: seen.append(dict(logs))))
    logs = {"loss": 1.0}
    handler.on_log(ARGS, TrainerState(), TrainerControl(), logs)
    assert seen == [{"loss": 1.0, "added": 1}]
    assert logs == seen[0]


# Whoever they are


def test_callbacks_derived_from_transformers_or_from_nothing_are_called():
    book = []

    class Theirs(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            book.append("theirs")

    class Nobodys:
        def on_step_end(self, args, state, control, **kwargs):
            book.append("nobody's")

    fire(make(Theirs, Nobodys()))
    assert book == ["theirs", "nobody's"]


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin"])
def test_a_method_assigned_to_an_instance_counts_from_the_next_beginning(event):
    book = []
    silent = TrainerCallback()
    handler = make(silent)
    silent.on_step_end = lambda *args, **kwargs: book.append("new")
    fire(handler, event)
    fire(handler)
    assert book == ["new"]
    del silent.on_step_end
    fire(handler, event)
    fire(handler)
    assert book == ["new"]


def test_an_event_that_nobody_answers_calls_nothing():
    handler = make(Notes(), EarlyStoppingCallback(), TrainerCallback(), transformers.TrainerCallback())
    state, control = TrainerState(), TrainerControl()
    called = []

    def note(frame, event, what):
        if event == "call":
            called.append(frame.f_code.co_name)
        elif event == "c_call":
            called.append(what.__name__)

    for event in ("on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_substep_end"):
        method = getattr(handler, event)
        called.clear()
        sys.setprofile(note)
        method(ARGS, state, control)
        sys.setprofile(None)
        assert called == [event, "call_event", "setprofile"]


def test_an_event_calls_each_answering_method_once_and_no_other():
    handler = make(Notes(), TrainerCallback(), AlsoThere(), flow=False)
    called = []
    state, control = TrainerState(), TrainerControl()
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_qualname) if event == "call" else None)
    handler.on_step_end(ARGS, state, control)
    sys.setprofile(None)
    assert called == [
        "CallbackHandler.on_step_end",
        "CallbackHandler.call_event",
        "Notes.on_step_end",
        "AlsoThere.on_step_end",
    ]


# The list


def assign(handler, added):
    handler.callbacks = [*handler.callbacks, added]


def add_in_place(handler, added):
    handler.callbacks += [added]


ADDITIONS = {
    "add_callback": lambda handler, added: handler.add_callback(added),
    "append": lambda handler, added: handler.callbacks.append(added),
    "extend": lambda handler, added: handler.callbacks.extend([added]),
    "insert": lambda handler, added: handler.callbacks.insert(0, added),
    "slice": lambda handler, added: handler.callbacks.__setitem__(slice(0, 0), [added]),
    "item": lambda handler, added: handler.callbacks.__setitem__(-1, added),
    "assignment": assign,
    "+=": add_in_place,
}
REMOVALS = {
    "pop_callback": lambda handler, gone: handler.pop_callback(gone),
    "pop by class": lambda handler, gone: handler.pop_callback(Notes),
    "remove_callback": lambda handler, gone: handler.remove_callback(gone),
    "remove by class": lambda handler, gone: handler.remove_callback(Notes),
    "remove": lambda handler, gone: handler.callbacks.remove(gone),
    "pop": lambda handler, gone: handler.callbacks.pop(handler.callbacks.index(gone)),
    "del": lambda handler, gone: handler.callbacks.__delitem__(handler.callbacks.index(gone)),
    "clear": lambda handler, gone: handler.callbacks.clear(),
    "assignment": lambda handler, gone: setattr(handler, "callbacks", []),
}


@pytest.mark.parametrize("add", ADDITIONS.values(), ids=ADDITIONS)
def test_a_callback_is_called_however_it_got_into_the_list(add):
    handler, added = make(TrainerCallback()), Notes()
    add(handler, added)
    fire(handler)
    assert added.book == ["notes"]


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
def test_a_callback_is_not_called_however_it_left_the_list(remove):
    gone = Notes()
    handler = make(gone)
    remove(handler, gone)
    fire(handler)
    assert gone.book == []
    assert gone not in handler.callbacks


def test_the_list_in_use_stays_the_same_under_augmented_assignment():
    handler, late = make(), Notes()
    held = handler.callbacks
    handler.callbacks += [AlsoThere()]
    held.append(late)
    fire(handler)
    assert late.book == ["notes"]


def test_sorting_the_list_changes_the_order_of_calls():
    book = []
    handler = make(*(Notes(name, book) for name in "cab"), flow=False)
    handler.callbacks.sort(key=lambda callback: callback.name)
    fire(handler)
    assert book == ["a", "b", "c"]


def test_a_callback_that_removes_itself_while_being_called_leaves_the_others_alone():
    book = []
    handler = make()

    class Once(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            book.append("once")
            handler.remove_callback(self)

    handler.add_callback(Once)
    handler.add_callback(Notes("always", book))
    fire(handler)
    fire(handler)
    assert book == ["once", "always", "always"]


def test_callbacks_are_found_and_removed_by_class_subclass_or_instance():
    class Special(Notes):
        pass

    first, second = Special("first"), Special("second")
    handler = make(first)
    handler.callbacks.append(second)
    assert handler.pop_callback(second) is second
    assert handler.pop_callback(Notes) is first
    assert handler.pop_callback(Notes) is None
    assert handler.pop_callback(first) is None
    handler.remove_callback(Notes)  # as in transformers: a class that isn't there is no error
    with pytest.raises(ValueError, match="DefaultFlowCallback"):
        handler.remove_callback(first)


def test_popping_an_instance_takes_that_one_and_not_one_equal_to_it():
    class Equal(Notes):
        def __eq__(self, other):
            return isinstance(other, Equal)

        __hash__ = None

    class Else(TrainerCallback):
        pass

    one = Equal("one")
    handler = make(one, Else())
    assert handler.pop_callback(one) is one
    assert handler.callback_list == "DefaultFlowCallback\nElse"


def test_a_second_one_of_a_class_is_kept_and_warned_about(caplog):
    handler = make(Notes("a"))
    assert not caplog.records
    handler.add_callback(Notes("b"))
    assert "second Notes" in caplog.text
    assert [type(callback) for callback in handler.callbacks] == [DefaultFlowCallback, Notes, Notes]


@pytest.mark.parametrize(
    ("flow", "warns"),
    [(None, True), (DefaultFlowCallback, False), (transformers.trainer_callback.DefaultFlowCallback, False)],
)
def test_a_missing_default_flow_is_warned_about(flow, warns, caplog):
    make(*([flow] if flow else []), AlsoThere, flow=False)
    assert ("There is no DefaultFlowCallback" in caplog.text) == warns
    assert ("AlsoThere" in caplog.text) == warns


# Control


def test_a_returned_control_is_adopted_and_handed_to_the_next():
    ours, theirs = TrainerControl(should_log=True), transformers.TrainerControl(should_save=True)
    seen = []
    handler = make(
        SimpleNamespace(on_step_end=lambda *args, **kwargs: ours),
        SimpleNamespace(on_step_end=lambda args, state, control, **kwargs: seen.append(control)),
        SimpleNamespace(on_step_end=lambda *args, **kwargs: theirs),
        flow=False,
    )
    assert fire(handler) is theirs
    assert seen == [ours]
    assert seen[0] is ours


def test_a_callback_that_returns_what_is_no_control_is_named():
    handler = make(SimpleNamespace(on_step_end=lambda *args, **kwargs: True))
    with pytest.raises(AttributeError) as caught:
        fire(handler)
    assert "SimpleNamespace.on_step_end" in caught.value.__notes__[0]


def test_half_a_control_is_its_callbacks_error_and_the_old_one_goes_on(caplog):
    half = SimpleNamespace(should_training_stop=True)
    handler = make(SimpleNamespace(on_step_end=lambda *args, **kwargs: half), AlsoThere(), callback_errors="disable")
    control = TrainerControl()
    assert fire(handler, control=control) is control
    assert "SimpleNamespace.on_step_end raised" in caplog.text
    assert handler.callbacks[-1].seen
    assert not handler.decisions


def test_a_callback_that_gives_the_handler_another_model_gives_it_to_the_next():
    seen = []
    handler = make(flow=False)
    handler.callbacks.append(SimpleNamespace(on_step_end=lambda *args, **kwargs: setattr(handler, "model", "other")))
    handler.callbacks.append(SimpleNamespace(on_step_end=lambda *args, **kwargs: seen.append(kwargs["model"])))
    fire(handler)
    assert seen == ["other"]


def test_keywords_of_a_call_by_hand_are_handed_on_with_the_others():
    seen = []
    for event in EVENTS[:-1]:
        handler = make(SimpleNamespace(**{event: lambda *args, **kwargs: seen.append(kwargs)}), flow=False)
        state, control = TrainerState(max_steps=10), TrainerControl()
        getattr(handler, event)(ARGS, state, control, **HAS_ITS_OWN.get(event, {}), extra=event)
    assert [(kwargs["extra"], kwargs["model"]) for kwargs in seen] == [(event, "model") for event in EVENTS[:-1]]


@pytest.mark.parametrize(
    ("event", "falling"),
    [
        ("on_train_begin", {"should_training_stop"}),
        ("on_epoch_begin", {"should_epoch_stop"}),
        ("on_step_begin", {"should_log", "should_evaluate", "should_save"}),
        ("on_log", {"should_log"}),
        ("on_evaluate", {"should_evaluate"}),
        ("on_save", {"should_save"}),
    ]
    + [(event, set()) for event in ("on_epoch_end", "on_substep_end", "on_train_end", "on_predict", "on_init_end")],
)
def test_each_event_lets_its_flags_fall_and_no_others(event, falling):
    flags = {"should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log"}
    outcomes = []
    theirs = transformers.trainer_callback.CallbackHandler([], None, None, None, None)
    for handler in (make(flow=False), theirs):
        control = fire(handler, event, TrainerControl(**dict.fromkeys(flags, True)))
        outcomes.append({flag for flag in flags if not getattr(control, flag)})
    assert outcomes == [falling, falling]


# Decisions and costs


def test_a_decision_carries_its_author_event_and_step():
    handler = make(Notes(), Sets(should_training_stop=True, should_save=True), AlsoThere())
    fire(handler, step=7)
    assert [str(decision) for decision in handler.decisions] == [
        "step 7: Sets set should_training_stop in on_step_end",
        "step 7: Sets set should_save in on_step_end",
    ]


def test_taking_a_flag_back_and_returning_another_control_are_decisions_too():
    handler = make(
        Sets(should_epoch_stop=False), SimpleNamespace(on_log=lambda *args, **kwargs: TrainerControl(should_save=True))
    )
    fire(handler, control=TrainerControl(should_epoch_stop=True), step=2)
    fire(handler, "on_log")
    assert [str(decision) for decision in handler.decisions] == [
        "step 2: Sets cleared should_epoch_stop in on_step_end",
        "step 3: SimpleNamespace set should_save in on_log",
    ]


def test_a_flag_that_falls_by_itself_or_is_set_twice_is_nobodys_decision():
    handler = make(Sets(should_log=True), SimpleNamespace(on_step_begin=lambda *args, **kwargs: None))
    control = fire(handler)
    fire(handler, control=control)
    fire(handler, "on_step_begin", control)
    assert len(handler.decisions) == 1


@pytest.mark.parametrize("flow", [DefaultFlowCallback, transformers.trainer_callback.DefaultFlowCallback])
def test_the_routine_of_the_default_flow_is_no_decision_but_the_end_is(flow):
    handler = make(flow, flow=False)
    state = TrainerState(max_steps=4, logging_steps=2, eval_steps=2, save_steps=2)
    for state.global_step in range(1, 5):
        control = handler.on_step_end(ARGS, state, TrainerControl())
    assert control.should_log
    assert control.should_save
    assert [str(decision) for decision in handler.decisions] == [
        "step 4: DefaultFlowCallback set should_training_stop in on_step_end"
    ]


def test_costs_go_to_the_callback_and_event_that_took_the_time():
    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.02)

    handler = make(Notes(), Slow(), AlsoThere())
    fire(handler)
    fire(handler)
    dearest, *others = handler.costs()
    assert (str(dearest), dearest.calls) == ("Slow.on_step_end", 2)
    assert dearest.seconds >= 0.04
    assert sum(cost.seconds for cost in others) < 0.02
    assert {str(cost): cost.calls for cost in others} == {
        "DefaultFlowCallback.on_step_end": 2,
        "DefaultFlowCallback.on_epoch_end": 0,
        "Notes.on_step_end": 2,
        "AlsoThere.on_step_end": 2,
    }


def test_costs_outlive_a_change_of_the_list_and_tell_instances_apart():
    first, second = Notes("first"), Notes("second")
    handler = make(first)
    fire(handler)
    handler.callbacks.append(second)
    fire(handler)
    assert {cost.callback.name: cost.calls for cost in handler.costs() if cost.callback in (first, second)} == {
        "first": 2,
        "second": 1,
    }


def test_printing_the_handler_shows_a_table():
    handler = make(EarlyStoppingCallback(), TrainerCallback(), Raises(), callback_errors="disable")
    fire(handler)
    header, flow, early, silent, disabled = str(handler).splitlines()
    assert header.split() == ["#", "callback", "seconds", "stateful", "events"]
    assert flow.split() == ["1", "DefaultFlowCallback", "0.000", "no", "on_epoch_end,", "on_step_end"]
    assert early.split() == ["2", "EarlyStoppingCallback", "0.000", "yes", "on_train_begin,", "on_evaluate"]
    assert silent.split() == ["3", "TrainerCallback", "0.000", "no", "none"]
    assert disabled.split()[1:3] == ["Raises", "(disabled)"]
    assert len({line.index(cell) for line, cell in ((header, "seconds"), (flow, "0.000"), (early, "0.000"))}) == 1


# Errors


def test_an_error_ends_the_event_and_names_callback_event_and_step():
    later = Notes()
    handler = make(Raises(), later)
    with pytest.raises(RuntimeError, match="no") as caught:
        fire(handler, step=5)
    assert caught.value.__notes__ == ["raised by the callback Raises.on_step_end at step 5"]
    assert later.book == []


def test_disable_goes_on_without_the_callback_that_raised(caplog):
    later = Notes()
    handler = make(Raises(), later, callback_errors="disable")
    fire(handler)
    fire(handler)
    fire(handler, "on_epoch_begin")
    fire(handler)
    assert later.book == ["notes"] * 3
    assert caplog.text.count("Raises.on_step_end raised") == 1
    assert "RuntimeError: no" in caplog.text


def test_disable_keeps_what_the_callback_decided_before_it_raised():
    class SetsAndRaises(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = True
            raise RuntimeError

    handler = make(SetsAndRaises(), callback_errors="disable")
    assert fire(handler).should_save
    assert [decision.callback for decision in handler.decisions] == ["SetsAndRaises"]


@pytest.mark.parametrize("callback_errors", ["raise", "disable"])
def test_ctrl_c_in_a_callback_is_never_swallowed(callback_errors):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    handler = make(SimpleNamespace(on_step_end=interrupt), callback_errors=callback_errors)
    with pytest.raises(KeyboardInterrupt):
        fire(handler)


def test_on_exception_reaches_everyone_even_where_one_raises(caplog):
    seen = []
    last = SimpleNamespace(on_exception=lambda *args, **kwargs: seen.append(kwargs))
    handler = make(Raises(), last)
    error = RuntimeError("the end")
    handler.on_exception(ARGS, TrainerState(), TrainerControl(), exception=error)
    assert seen[0]["exception"] is error
    assert seen[0]["model"] == "model"
    assert "ValueError: again" in caplog.text


# Copies


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_of_the_handler_works_on_its_own(duplicate):
    handler = make(Notes(), Raises(), callback_errors="disable")
    fire(handler)
    twin = duplicate(handler)
    fire(twin)
    (original,), (copied,) = ([c for c in each.callbacks if isinstance(c, Notes)] for each in (handler, twin))
    assert original.book == ["notes"]
    assert copied.book == ["notes", "notes"]
    assert [cost.calls for cost in twin.costs() if cost.callback is copied] == [1]
    assert all(cost.callback in twin.callbacks for cost in twin.costs())
    assert "Raises (disabled)" in str(twin)
    late = AlsoThere()
    twin.callbacks.append(late)
    fire(twin)
    assert late.seen
    assert len(handler.callbacks) == 3
    assert twin.model == "model"
