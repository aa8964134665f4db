"""Tell, when a training ends, which callbacks took a noticeable part of its time."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from loopwright._support.log import Logger, get_logger

if TYPE_CHECKING:
    from loopwright.callbacks.dispatcher import CallbackHandler

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
        self._before = {listener: listener.seconds for listener in handler.costs()}
        self._started = perf_counter()

    def noticeable(self) -> list[str]:
        """Return, the dearest first, what took a noticeable part: "Histogram.on_step_end: 14 % of 32 min"."""
        wall = perf_counter() - self._started
        taken = [
            (listener.seconds - self._before.get(listener, 0.0), str(listener)) for listener in self._handler.costs()
        ]
        return [
            f"{name}: {seconds / wall:.0%} of {_rounded(wall)}".replace("%", " %")
            for seconds, name in sorted(taken, reverse=True)
            if seconds > max(NOTICEABLE_SHARE * wall, NOTICEABLE_SECONDS)
        ]

    def tell(self) -> None:
        """Log a warning for each of them."""
        for line in self.noticeable():
            logger.warning("%s", line)


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
