"""Tell, when a training ends, which callbacks took a noticeable part of its time."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopwright.callbacks.dispatcher import CallbackHandler
    from loopwright.callbacks.listening import Listener

logger: Logger = get_logger(__name__)

NOTICEABLE_SHARE = 0.02
NOTICEABLE_SECONDS = 1.0  # who trains for two seconds waits for nothing


class CostWatch:
    """What each callback takes at each event from here on, beside the time that passes.

    Arguments:
        handler: Whose callbacks, which may become more.
    """

    def __init__(self, handler: CallbackHandler) -> None:
        self._handler = handler
        self._before = {listener: (listener.calls, listener.seconds) for listener in handler.costs()}
        self._started = perf_counter()

    def noticeable(self) -> list[str]:
        """Return, the dearest first, what took a noticeable part: "Histogram.on_step_end: 14 % of 32 min"."""
        wall = perf_counter() - self._started
        taken = [(seconds, str(listener)) for listener, _, seconds in self._taken()]
        return [
            f"{name}: {seconds / wall:.0%} of {_rounded(wall)}".replace("%", " %")
            for seconds, name in sorted(taken, reverse=True)
            if seconds > max(NOTICEABLE_SHARE * wall, NOTICEABLE_SECONDS)
        ]

    def spent(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return calls and seconds by callback and event, of those that were called.

        A callback goes by its class; the second of a class and those after it have their number behind it.
        """
        names: dict[int, str] = {}
        found: dict[str, dict[str, dict[str, float]]] = {}
        for listener, calls, seconds in self._taken():
            if calls:
                name = self._name(listener.callback, names)
                found.setdefault(name, {})[str(listener.event)] = {"calls": calls, "seconds": seconds}
        return found

    @staticmethod
    def _name(callback: Any, names: dict[int, str]) -> str:
        if id(callback) not in names:
            plain = type(callback).__name__
            number = 1 + sum(name == plain or name.startswith(f"{plain} ") for name in names.values())
            names[id(callback)] = plain if number == 1 else f"{plain} {number}"
        return names[id(callback)]

    def _taken(self) -> Iterator[tuple[Listener, int, float]]:
        for listener in self._handler.costs():
            calls, seconds = self._before.get(listener, (0, 0.0))
            yield listener, listener.calls - calls, listener.seconds - seconds

    def tell(self) -> None:
        """Log a warning for each of them."""
        for line in self.noticeable():
            logger.warning("%s", line)


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
