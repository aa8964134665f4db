"""What delivery needs of a tracker, and what it tells it at the beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from loopwright.records import Record, Run, Status


def _forget(values: Mapping[str, Any]) -> None:
    """Remember nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a tracker is with a run when it is opened.

    Attributes:
        confirmed: Number of the last record that the service holds for certain; 0 at the beginning.
        next_step: Step of the first record after it, None where there is none yet.
        was_closed: Whether the last session with this run ended in order; True where there was none.
        reference: What the tracker remembered: the service's own id of the run, say.
        remember: Adds to the reference, durably.
    """

    confirmed: int = 0
    next_step: int | None = None
    was_closed: bool = True
    reference: dict[str, Any] = field(default_factory=dict)
    remember: Callable[[Mapping[str, Any]], None] = _forget

    @property
    def is_new(self) -> bool:
        """Whether nothing of this run has been confirmed yet."""
        return self.confirmed == 0


class Sink(Protocol):
    """One tracker, for one run. All calls come from one thread, one at a time; any may raise, and is repeated then.

    Attributes:
        purges: How repetition is made harmless. True: when it is opened after disorder, or told to rewind, it takes
            back all that it shows from a step on, and the records of these steps come again. False: a record that is
            written twice is there once.
    """

    @property
    def purges(self) -> bool:
        """How repetition is made harmless; see above."""
        ...

    def load(self) -> None:
        """Import what the SDK needs; nobody else imports meanwhile."""
        ...

    def open(self, run: Run, standing: Standing) -> int | None:
        """Begin or go on with `run`.

        Returns:
            The step from which records have to come again, because the service holds less than it had confirmed;
            None where it holds that much.
        """
        ...

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand over records, in order."""
        ...

    def rewind(self, step: int) -> None:
        """Take back what was shown from `step` on, as far as the service can."""
        ...

    def confirmed(self) -> int:
        """Return the number of the last record that a kill can't take from the service any more."""
        ...

    def close(self, status: Status) -> None:
        """End the run in the service, everything delivered being confirmed by that."""
        ...

    def abandon(self) -> None:
        """Let go of what is open, as far as that goes: another will be opened in its place."""
        ...

    def deadline_seconds(self, records: Sequence[Record]) -> float:
        """Return how long `deliver` may take for `records`."""
        ...
