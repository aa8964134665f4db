"""Keep where a training's time goes, by the clock of the process that trains.

    data ── forward and backward ── optimizer ── log · evaluation · save         callbacks: wherever they are called

A step costs four looks at the clock. On an accelerator it is the host's time: what is computed there shows where the
host waits for it. Parts exclude the callbacks called in them, which have a part of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from loopwright.callbacks.costs import CostWatch
from loopwright.callbacks.dispatcher import CallbackHandler
from loopwright.callbacks.events import Event

# Called inside the parts that are measured without looking who is called meanwhile.
_IN_FORWARD_BACKWARD = (Event.STEP_BEGIN, Event.SUBSTEP_END)
_IN_OPTIMIZER = (Event.PRE_OPTIMIZER_STEP, Event.OPTIMIZER_STEP)


class Clock:
    """The seconds of one training, in parts.

    Arguments:
        handler: Its callbacks.

    Attributes:
        data: Waiting for batches, and bringing them to the device.
        forward_backward: From the batches' arrival to the gradients; callbacks included until `account`.
        optimizer: Clipping, the update and the schedule; callbacks included until `account`.
        logging: Log lines, their way into the journal.
        evaluation: Evaluations during the training.
        saving: What a save holds up the loop.
        fetched: When the present update's batches were there, by `perf_counter`.
    """

    __slots__ = (
        "_handler",
        "_started",
        "_watch",
        "data",
        "evaluation",
        "fetched",
        "forward_backward",
        "logging",
        "optimizer",
        "saving",
    )

    def __init__(self, handler: CallbackHandler) -> None:
        self.data = self.forward_backward = self.optimizer = self.logging = self.evaluation = self.saving = 0.0
        self._handler = handler
        self._watch = CostWatch(handler)
        self._started = self.fetched = perf_counter()

    @contextmanager
    def taking(self, part: str) -> Iterator[None]:
        """Count what is done inside to a part, the callbacks' time aside."""
        before, started = self._handler.seconds(), perf_counter()
        try:
            yield
        finally:
            spent = perf_counter() - started - (self._handler.seconds() - before)
            setattr(self, part, getattr(self, part) + max(spent, 0.0))

    def account(self) -> dict[str, Any]:
        """Return the account so far: seconds by part, in all, and calls and seconds by callback and event."""
        spent = self._watch.spent()
        by_event: dict[str, float] = {}
        for events in spent.values():
            for event, cost in events.items():
                by_event[event] = by_event.get(event, 0.0) + cost["seconds"]
        inside, around = (
            sum(by_event.get(event, 0.0) for event in part) for part in (_IN_FORWARD_BACKWARD, _IN_OPTIMIZER)
        )
        parts = {
            "data": self.data,
            "forward_backward": max(self.forward_backward - inside, 0.0),
            "optimizer": max(self.optimizer - around, 0.0),
            "callbacks": sum(by_event.values()),
            "logging": self.logging,
            "evaluation": self.evaluation,
            "saving": self.saving,
        }
        return {"total": perf_counter() - self._started, "parts": parts, "callbacks": spent}
