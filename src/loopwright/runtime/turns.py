"""Let Python's threads take turns at the interpreter more often, while one of them works beside the training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Python's own is ten times as long. The loop gives the interpreter away at each of its calls that wait, a log line's
# commit at several; beside a save that computes it came back up to 5 ms later each time.
_SECONDS = 0.0005
# Python cuts what it is given to microseconds, so that what it said itself may come back as one less.
_HALF_A_MICROSECOND = 5e-7


@contextmanager
def short_turns() -> Iterator[None]:
    """Within this context a thread that wants the interpreter gets it within half a millisecond.

    Python has one interval for the whole process. What it was comes back in the end, where nobody has changed it since;
    a shorter one is left alone.
    """
    before = sys.getswitchinterval()
    if before <= _SECONDS:
        yield
        return
    sys.setswitchinterval(_SECONDS)
    own = sys.getswitchinterval()
    try:
        yield
    finally:
        if sys.getswitchinterval() == own:
            sys.setswitchinterval(before + _HALF_A_MICROSECOND)
