"""Let a training look up while it waits for worker processes."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

_SECONDS_BETWEEN_LOOKS = 0.1


def poll_while_waiting(batches: Any, check: Callable[[], None]) -> None:
    """Have the iterator `batches` of a `DataLoader` with workers call `check` before and while it waits for a batch.

    What `check` raises leaves the iterator where it was: between two batches, none being lost. Other iterators, which
    load in this process, are left as they are.
    """
    wait = getattr(type(batches), "_try_get_data", None)  # torch's, and torchdata's after it
    if wait is None:
        return
    # By a weak reference: a circle would keep the workers alive until the next garbage collection.
    batches._try_get_data = functools.partial(_wait_and_look, weakref.ref(batches), wait, check)


def end_workers(batches: Any) -> None:
    """End the worker processes of the iterator `batches`, if any, in the middle of what they load.

    Otherwise letting go of it waits for that, up to five seconds for each worker.
    """
    for worker in getattr(batches, "_workers", ()):
        worker.terminate()


def _wait_and_look(
    reference: Any, wait: Callable[..., tuple[bool, Any]], check: Callable[[], None], timeout: float = 5.0
) -> tuple[bool, Any]:
    batches, left = reference(), timeout
    while True:
        check()
        try:
            has_data, data = wait(batches, min(left, _SECONDS_BETWEEN_LOOKS))
        except Exception:
            check()  # a signal to the whole process group ends workers too
            raise
        left -= _SECONDS_BETWEEN_LOOKS
        if has_data or left <= 0:
            return has_data, data
