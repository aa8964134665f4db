"""Stop a training for a while where it can be saved exactly: between micro-batches, in evaluations, while it waits.

`Paused` unwinds the loop from such a place to its beginning. It derives from BaseException, as what lies between may
catch every Exception, and it never leaves `train()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loopwright.runtime.randomness import capture_randomness, restore_randomness

if TYPE_CHECKING:
    from loopwright.runtime.signals import SignalWatch


# A signal to a process group reaches its members one after the other.
_SECONDS_UNTIL_OUR_OWN = 0.5


class Paused(BaseException):
    """The training is to stop here and be saved."""


class PausePoint:
    """Where the loop looks whether it should pause.

    Arguments:
        signals: Who knows.
    """

    def __init__(self, signals: SignalWatch) -> None:
        self.signals = signals
        self._can_stop: Callable[[], bool] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self.signals.received is not None

    def stop_here(self) -> None:
        """Raise `Paused` where a signal has come: the loop is at a place where it can be saved as it is."""
        if self.signals.received is not None:
            raise Paused

    def stop_while_waiting(self) -> None:
        """Raise `Paused` where a signal has come, or the error of a worker that died where none has come to us.

        Raises:
            RuntimeError: torch's, naming the worker.
        """
        self.stop_here()
        if self.signals.lost_worker is not None:
            time.sleep(_SECONDS_UNTIL_OUR_OWN)
            self.stop_here()
            raise self.signals.lost_worker

    def stop_in_evaluation(self) -> None:
        """Raise `Paused` where a signal has come and the loop itself evaluates, of which no line is logged yet."""
        if self.signals.received is not None and self._can_stop is not None and self._can_stop():
            raise Paused

    @contextmanager
    def in_evaluation(self, count_lines: Callable[[], int]) -> Iterator[None]:
        """Let the evaluation inside be given up; the random states are then those before it.

        Arguments:
            count_lines: Returns the number of log lines: once there is one more, giving up would repeat it.
        """
        states, lines = capture_randomness(), count_lines()
        self._can_stop = lambda: count_lines() == lines
        try:
            yield
        except Paused:
            restore_randomness(states)
            raise
        finally:
            self._can_stop = None
