"""Decide where a tracker lives: in the delivery process, unless it must be in the training's.

Beside a Python-busy thread a 1.2 ms step took 376 times as long, and importing SDKs in a thread stole all of a run's
time: so a tracker stays here only where something in this process needs it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from loopwright.callbacks.events import Event
from loopwright.trackers.registry import listed_trackers

_HOOKS = (
    "setup",
    "write",
    "confirmed",
    "recover",
    "save_artifact",
    "rewind",
    "close",
    *(event.value for event in Event),
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a tracker lives.

    Attributes:
        place: "delivery", "training" or "off".
        reason: Why, where it isn't the delivery process.
        class_path: The class that the delivery process, or a later `loopwright sync`, can build.
        takes_own_records: Whether it gets the log lines that a subclass hands on, instead of the run's.
    """

    place: str
    reason: str | None
    class_path: str
    takes_own_records: bool = False


def place(tracker: Any) -> Placement:
    """Return where `tracker` lives."""
    base = _buildable_class(type(tracker))
    changed = _changed_hooks(type(tracker), base)
    path = f"{base.__module__}:{base.__qualname__}"
    if (reason := tracker.why_off()) is not None:
        return Placement("off", reason, path)
    reason = _why_here(tracker, base, changed)
    return Placement("delivery" if reason is None else "training", reason, path, Event.LOG.value in changed)


def _why_here(tracker: Any, base: type, changed: list[str]) -> str | None:
    if changed:
        return f"{type(tracker).__name__} overrides {', '.join(changed)}"
    if not _is_importable(base):
        return f"{base.__qualname__} of {base.__module__} can't be imported by another process"
    if tracker.given_object() is not None:
        return "an object of its SDK was handed to it"
    if tracker.ambient_module in sys.modules:
        return f"the program had imported {tracker.ambient_module} before training"
    return tracker.needs_training_process()  # type: ignore[no-any-return]


def _buildable_class(kind: type) -> type:
    """Return the nearest class that is in the list of trackers; `kind` itself where none is."""
    listed = {tracker.class_path for tracker in listed_trackers().values()}
    return next((base for base in kind.__mro__ if f"{base.__module__}:{base.__qualname__}" in listed), kind)


def _changed_hooks(kind: type, base: type) -> list[str]:
    between = kind.__mro__[: kind.__mro__.index(base)]
    return [name for name in _HOOKS if any(name in vars(owner) for owner in between)]


def _is_importable(kind: type) -> bool:
    return kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__
