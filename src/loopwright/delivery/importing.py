"""Import SDKs one after the other.

Two threads that import the same packages at once can each hold what the other waits for. Python ends that by handing
one of them a module that is half there, and the SDK stays broken for as long as the process lives. Workers open their
trackers on threads of their own, all at the same moment: so they take turns at importing, and open nothing until all
have had theirs, for SDKs import more while they are opened.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# An SDK that hangs in its import keeps the others no longer.
PATIENCE_SECONDS = 60.0


class Turns:
    """Who imports now, and who waits for it; one for the process, as its modules are."""

    def __init__(self) -> None:
        self._queue: list[object] = []
        self._changed = threading.Condition()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Stand in line; be alone inside the block, and leave it when nobody is in line any more.

        Neither is waited for longer than `PATIENCE_SECONDS`.
        """
        me = object()
        with self._changed:
            self._queue.append(me)
            self._changed.wait_for(lambda: self._queue[0] is me, PATIENCE_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                self._queue.remove(me)
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, PATIENCE_SECONDS)


importing = Turns()
