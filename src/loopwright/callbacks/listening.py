"""Find which events a callback really answers, so that the others cost nothing."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import CodeType
from typing import Any, SupportsIndex

from loopwright.callbacks.events import Event

_SETUP = frozenset({"RESUME", "CACHE", "NOP"})
# `return None` as CPython spells it: two instructions up to 3.11 and from 3.14 on, one between.
_RETURNS_NOTHING = ([("LOAD_CONST", None), ("RETURN_VALUE", None)], [("RETURN_CONST", None)])


def answered_events(callback: object) -> dict[str, Callable[..., Any]]:
    """Return the bound methods of `callback` that do something, by event name, in the order of `Event`.

    Judged by the method's code, not by its class: so it holds for callbacks derived from ours, from transformers'
    `TrainerCallback` or from nothing, and for functions assigned to the instance.
    """
    found = ((event.value, getattr(callback, event.value, None)) for event in Event)
    return {name: method for name, method in found if method is not None and not _does_nothing(method)}


def _does_nothing(method: Callable[..., Any]) -> bool:
    function = getattr(method, "__func__", method)
    code = getattr(function, "__code__", None)
    return code is not None and _is_empty(code)


@lru_cache(maxsize=4096)
def _is_empty(code: CodeType) -> bool:
    instructions = [
        (instruction.opname, instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname not in _SETUP
    ]
    return instructions in _RETURNS_NOTHING


class ObservedList(list[Any]):
    """A list that calls `on_change` after each change, whatever changed it."""

    def __init__(self, items: Iterable[Any], on_change: Callable[[], None]) -> None:
        super().__init__(items)
        self._on_change = on_change

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled and copied as a plain list: the one who holds it wraps it again.
        return (list, (list(self),))

    def append(self, item: Any) -> None:
        super().append(item)
        self._on_change()

    def extend(self, items: Iterable[Any]) -> None:
        super().extend(items)
        self._on_change()

    def insert(self, index: SupportsIndex, item: Any) -> None:
        super().insert(index, item)
        self._on_change()

    def remove(self, item: Any) -> None:
        super().remove(item)
        self._on_change()

    def pop(self, index: SupportsIndex = -1) -> Any:
        item = super().pop(index)
        self._on_change()
        return item

    def clear(self) -> None:
        super().clear()
        self._on_change()

    def reverse(self) -> None:
        super().reverse()
        self._on_change()

    def sort(self, **options: Any) -> None:
        super().sort(**options)
        self._on_change()

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self._on_change()

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        super().__delitem__(index)
        self._on_change()

    def __iadd__(self, items: Iterable[Any]) -> ObservedList:  # type: ignore[misc]
        super().__iadd__(items)
        self._on_change()
        return self
