"""Take the callbacks' states for a checkpoint, and put them back into the same objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from loopwright._support.log import get_logger
from loopwright.state import collect_states, is_exportable

logger = get_logger(__name__)


def capture_states(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Return the states of those callbacks that have one, laid out as in `trainer_state.json`."""
    return collect_states(callback for callback in callbacks if is_exportable(callback))


def restore_states(callbacks: Iterable[Any], saved: dict[str, Any], begun_with: dict[str, Any] | None) -> None:
    """Put `saved` states back into `callbacks`, in place; several instances of a class take theirs in order.

    Constructor arguments are restored too, as some callbacks keep changing values there -- unless the instance was
    now built with others than at the saved run's start (`begun_with`): then the script has changed, and its new
    arguments stand.
    """
    held = {name: list(instances) for name, instances in _by_class(callbacks)}
    for name, states in saved.items():
        states = _as_list(states)
        instances = held.get(name, [])
        if len(instances) < len(states):
            logger.warning("the checkpoint holds %d state(s) of %s; this run has %d", len(states), name, len(instances))
        begun = _as_list((begun_with or {}).get(name))
        for index, (instance, state) in enumerate(zip(instances, states, strict=False)):
            _restore(instance, state, begun[index] if index < len(begun) else None)


def _restore(instance: Any, state: dict[str, Any], begun: dict[str, Any] | None) -> None:
    now = instance.state().get("args", {})
    saved = state.get("args", {})
    expected = begun.get("args", {}) if begun else saved
    changed = sorted(key for key, value in expected.items() if now.get(key) != value)
    if changed:
        logger.warning("%s was saved with other arguments; the new ones stand: %s", type(instance).__name__, changed)
    else:
        _assign(instance, {key: value for key, value in saved.items() if hasattr(instance, key)})
    _assign(instance, state.get("attributes", {}))


def _assign(instance: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(instance, name, value)


def _by_class(callbacks: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for callback in callbacks:
        if is_exportable(callback):
            found.setdefault(type(callback).__name__, []).append(callback)
    return iter(found.items())


def _as_list(states: Any) -> list[Any]:
    if states is None:
        return []
    return states if isinstance(states, list) else [states]
