"""The things a run remembers beside its log lines: for now, who decided what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of a control flag by one callback.

    Attributes:
        step: Optimizer updates done when it was taken.
        callback: Class name of the callback.
        event: The event it answered, such as "on_evaluate".
        flag: The flag, such as "should_training_stop".
        value: What the flag was set to.
    """

    step: int
    callback: str
    event: str
    flag: str
    value: bool

    def __str__(self) -> str:
        verb = "set" if self.value else "cleared"
        return f"step {self.step}: {self.callback} {verb} {self.flag} in {self.event}"
