"""Keep the processes that evaluate a sharded model together: each forward is all processes', whoever's batch it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.runtime.ranks import Ranks


class Company:
    """Has a process that is out of batches do forwards for as long as others have some.

    Arguments:
        ranks: The processes, all of which make one of these at the same time.
        first: This process's first batch; None where it has none.
    """

    def __init__(self, ranks: Ranks, first: Any) -> None:
        self.ranks = ranks
        self._stand_in = first
        (somebody_lacks_one,) = ranks.agree([first is None])
        if somebody_lacks_one:  # then the first process is the last to have none
            shared = ranks.share(first)
            self._stand_in = shared if first is None else first

    def go_on(self, batch: Any) -> None:
        """Say that a batch of this process's own comes next."""
        self._stand_in = batch
        self.ranks.agree([True])

    def go_along(self, forward: Callable[[Any], Any]) -> None:
        """Call `forward` with a batch that has been had, as often as others still have one of their own."""
        while self.ranks.agree([False])[0]:
            forward(self._stand_in)
