"""Decide how long to wait after a failure."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0


class Backoff:
    """Waits that double with each failure in a row, up to a minute, each shortened at random by up to a half.

    After a handful of failures this is a circuit that stands open and lets one try through now and then.

    Attributes:
        failures: Failures in a row.
    """

    def __init__(self, first_seconds: float = FIRST_SECONDS, longest_seconds: float = LONGEST_SECONDS) -> None:
        self.failures: int = 0
        self._first = first_seconds
        self._longest = longest_seconds
        # A generator of its own: the global one belongs to the training.
        self._random = random.Random()

    def fail(self) -> float:
        """Count a failure, and return the seconds to wait."""
        wait = min(self._first * 2.0 ** min(self.failures, 30), self._longest)
        self.failures += 1
        return wait * (1.0 - 0.5 * self._random.random())

    def succeed(self) -> None:
        """Begin at the shortest wait again."""
        self.failures = 0
