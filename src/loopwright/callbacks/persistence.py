"""Take the callbacks' states for a checkpoint, and put them back into the same objects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.state import TrainerControl, collect_states, is_exportable, plain_number

logger: Logger = get_logger(__name__)


def capture_states(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Return the states of those callbacks that have one, laid out as in `trainer_state.json`."""
    return collect_states(callback for callback in callbacks if is_exportable(callback))


def restore_states(callbacks: Iterable[Any], saved: dict[str, Any], begun_with: dict[str, Any] | None) -> None:
    """Put `saved` states back into `callbacks`, in place; several instances of a class take theirs in order.

    Constructor arguments are restored too, as some callbacks keep changing values there -- but for those that the
    instance was now built with otherwise than at the saved run's start (`begun_with`; where that isn't known,
    otherwise than saved): there the script has changed, and what it says now stands.
    """
    held = _by_class(callbacks)
    for name, found in saved.items():
        states, instances = _as_list(found), held.get(name, [])
        if len(instances) < len(states):
            logger.warning("the checkpoint holds %d state(s) of %s; this run has %d", len(states), name, len(instances))
        begun = _as_list((begun_with or {}).get(name))
        for index, (instance, state) in enumerate(zip(instances, states, strict=False)):
            _restore(instance, state, begun[index] if index < len(begun) else None)


def _restore(instance: Any, state: dict[str, Any], begun: dict[str, Any] | None) -> None:
    saved, attributes = state.get("args", {}), state.get("attributes", {})
    if not _is_control(instance):
        saved = _without_changed(instance, saved, saved if begun is None else begun.get("args", {}))
    if _rebuilds_itself(instance) or not all(hasattr(instance, name) for name in saved):
        # Only the class knows how its state becomes attributes: let it build a twin, and take over what that has.
        twin = type(instance).from_state({"args": saved, "attributes": attributes})
        vars(instance).update(vars(twin))
        return
    for name, value in {**saved, **attributes}.items():
        setattr(instance, name, value)


def _without_changed(instance: Any, saved: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    now = instance.state().get("args", {})
    changed = {name: now[name] for name, value in begun.items() if name in now and _text(now[name]) != _text(value)}
    if changed:
        logger.warning("%s was saved with other arguments; the new ones stand: %s", type(instance).__name__, changed)
    # What is the same stays the very object: a tuple would come back as a list.
    same = {name: now[name] for name, value in saved.items() if name in now and _text(now[name]) == _text(value)}
    return {**saved, **same, **{name: value for name, value in changed.items() if name in saved}}


def _text(value: Any) -> str:
    # As JSON writes it: a tuple came back from the checkpoint as a list, and NaN equals itself.
    return json.dumps(value, sort_keys=True, default=plain_number)


def _is_control(thing: Any) -> bool:
    # Its "args" are all state; transformers' may stand in for ours.
    return type(thing).__name__ == TrainerControl.__name__


def _rebuilds_itself(instance: Any) -> bool:
    function = getattr(type(instance).from_state, "__func__", type(instance).from_state)
    return getattr(function, "__qualname__", "") != "ExportableState.from_state"


def _by_class(callbacks: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for callback in callbacks:
        if is_exportable(callback):
            found.setdefault(type(callback).__name__, []).append(callback)
    return found


def _as_list(states: Any) -> list[Any]:
    if states is None:
        return []
    return states if isinstance(states, list) else [states]
