"""Events, callback methods and the handler's methods are the same list, and each carries what it promises."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import transformers

from loopwright import CallbackHandler, Event, TrainerCallback, TrainerControl, TrainerState
from loopwright.callbacks import events
from loopwright.callbacks.events import EventContext

OWN_KEYWORDS: dict[Event, dict[str, Any]] = {
    Event.EVALUATE: {"metrics": {"eval_loss": 1.0}},
    Event.PREDICT: {"metrics": {"test_loss": 1.0}},
    Event.LOG: {"logs": {"loss": 1.0}},
    Event.EXCEPTION: {"exception": ValueError("an example")},
}
ALWAYS = {"model", "processing_class", "tokenizer", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader"}


def event_methods(kind: type) -> list[str]:
    return [name for name in vars(kind) if name.startswith("on_")]


def make_recorder(seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> TrainerCallback:
    """Return a callback that answers every event by noting what it received."""

    def answer(name: str) -> Any:
        return lambda self, *arguments, **keywords: seen.append((name, arguments, keywords))

    recorder: TrainerCallback = type("Recorder", (TrainerCallback,), {event: answer(event) for event in Event})()
    return recorder


def test_callback_has_one_method_for_each_event_in_its_order() -> None:
    assert event_methods(TrainerCallback) == [event.value for event in Event]


def test_handler_has_one_method_for_each_event_in_its_order() -> None:
    assert event_methods(CallbackHandler) == [event.value for event in Event]


def test_events_are_those_of_transformers_and_on_exception() -> None:
    theirs = {name for name in dir(transformers.TrainerCallback) if name.startswith("on_")}
    assert {event.value for event in Event} - theirs == {"on_exception"}
    assert theirs <= {event.value for event in Event}


def test_event_methods_are_called_as_in_transformers() -> None:
    for name in event_methods(transformers.TrainerCallback):
        mine = inspect.signature(getattr(TrainerCallback, name)).parameters
        theirs = inspect.signature(getattr(transformers.TrainerCallback, name)).parameters
        assert list(mine) == list(theirs), name
        assert [p.kind for p in mine.values()] == [p.kind for p in theirs.values()], name


@pytest.mark.parametrize("event", Event)
def test_event_has_its_place_in_the_drawing(event: Event) -> None:
    assert event.value in str(events.__doc__)


@pytest.mark.parametrize("event", Event)
def test_event_reaches_its_method_alone_with_what_it_promises(event: Event) -> None:
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    handler = CallbackHandler([make_recorder(seen)], object(), object(), object(), object())
    args, state, control = object(), TrainerState(), TrainerControl()
    own = OWN_KEYWORDS.get(event, {})
    getattr(handler, event.value)(args, state, control, **own)

    [(name, arguments, keywords)] = seen
    assert name == event.value
    assert arguments == (args, state, control)
    assert set(keywords) == ALWAYS | set(own)
    assert set(keywords) <= set(EventContext.__annotations__)
    assert all(keywords[key] is value for key, value in own.items())
    assert keywords["tokenizer"] is keywords["processing_class"]


@pytest.mark.parametrize("event", Event)
def test_untouched_method_answers_nothing(event: Event) -> None:
    keywords: dict[str, Any] = {"metrics": {}} if event is Event.PREDICT else {}
    assert getattr(TrainerCallback(), event.value)(None, None, None, **keywords) is None


def test_context_names_every_keyword_that_an_event_carries() -> None:
    own = {key for keywords in OWN_KEYWORDS.values() for key in keywords}
    assert set(EventContext.__annotations__) == ALWAYS | own
