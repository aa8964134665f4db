"""Find which events a callback really answers, so that the others cost nothing, and hold what each answer costs."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, wraps
from types import CodeType
from typing import Any

from loopwright.callbacks.events import Event

_SETUP = frozenset({"RESUME", "CACHE", "NOP"})
# `return None` as CPython spells it: two instructions up to 3.11 and from 3.14 on, one between.
_RETURNS_NOTHING = ([("LOAD_CONST", None), ("RETURN_VALUE", None)], [("RETURN_CONST", None)])


@dataclass(slots=True, eq=False)
class Listener:
    """One callback's answer to one event, and what it has cost so far."""

    callback: Any
    event: str
    method: Callable[..., Any]
    calls: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{type(self.callback).__name__}.{self.event}"


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


def _announced(change: Callable[..., Any]) -> Any:
    """Return `change`, a method of list, with a call of `on_change` after it, even where it fails half-way."""

    @wraps(change)
    def change_and_announce(self: ObservedList, *args: Any, **options: Any) -> Any:
        try:
            return change(self, *args, **options)
        finally:
            self._on_change()

    return change_and_announce


class ObservedList(list[Any]):
    """A list that calls `on_change` after each change, whatever changed it."""

    def __init__(self, items: Iterable[Any], on_change: Callable[[], None]) -> None:
        super().__init__(items)
        self._on_change = on_change

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled and copied as a plain list: the one who holds it wraps it again.
        return (list, (list(self),))

    append: Any = _announced(list.append)
    extend: Any = _announced(list.extend)
    insert: Any = _announced(list.insert)
    remove: Any = _announced(list.remove)
    pop: Any = _announced(list.pop)
    clear: Any = _announced(list.clear)
    reverse: Any = _announced(list.reverse)
    sort: Any = _announced(list.sort)
    __setitem__: Any = _announced(list.__setitem__)
    __delitem__: Any = _announced(list.__delitem__)
    __iadd__: Any = _announced(list.__iadd__)
    __imul__: Any = _announced(list.__imul__)
