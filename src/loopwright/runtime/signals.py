"""Note a signal that asks the process to end, so that a training can save first and leave in order.

SIGTERM comes from schedulers and service managers, SIGUSR1 from Slurm (`--signal`) ahead of the end. The handler only
makes a note; the training looks at it between micro-batches, in evaluations and while it waits for data. A second
signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from types import FrameType
from typing import Any

from loopwright._support.log import Logger, get_logger, warn_once

logger: Logger = get_logger(__name__)

_NAMES = ("SIGTERM", "SIGUSR1")
# As torch words it, after strsignal.
_ENDED_WORDS = ("killed by signal: Terminated", "killed by signal: User defined signal 1")

_installed: weakref.WeakSet[SignalWatch] = weakref.WeakSet()


class SignalWatch:
    """A context in which the first SIGTERM or SIGUSR1 is noted rather than obeyed.

    A handler that the program had installed is still called. A signal that the program ignores, or handles outside of
    Python, is left alone. Children that are forked meanwhile get the program's handlers back. Off the main thread,
    where Python lets nobody install handlers, nothing is watched; that is said once.

    Arguments:
        is_on: Whether to watch at all.

    Attributes:
        received: The signal that came, None before.
        lost_worker: What torch says of a worker process that such a signal ended, None before.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self.is_on = is_on
        self.received: signal.Signals | None = None
        self._pid = os.getpid()
        self.lost_worker: RuntimeError | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalWatch:
        if not self.is_on:
            return self
        if threading.current_thread() is not threading.main_thread():
            warn_once(logger, "training off the main thread: SIGTERM ends it without a checkpoint")
            return self
        for name in _NAMES:
            if (number := getattr(signal, name, None)) is not None:  # Windows has no SIGUSR1
                self._install(number)
        _installed.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def _install(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        if before is None or before is signal.SIG_IGN:
            logger.info("%s is handled by the program itself", number.name)
            return
        self._before[number] = before
        signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the program its handlers back."""
        _installed.discard(self)
        for number, before in self._before.items():
            if signal.getsignal(number) in (
                self._note,
                self._note_child,
            ):  # else somebody has put in another meanwhile, which stands
                signal.signal(number, before)
        self._before = {}

    def guard_workers(self) -> None:
        """After a loader has started workers: let their end by such a signal be noted too, not raised anywhere.

        A signal to the whole process group ends workers as well, and torch's handler of SIGCHLD raises a RuntimeError
        for that in the middle of whatever the training does, the optimizer's step not excepted.
        """
        number = getattr(signal, "SIGCHLD", None)
        if self not in _installed or number is None:
            return
        before = signal.getsignal(number)
        if callable(before) and before != self._note_child:
            self._before[number] = before
            signal.signal(number, self._note_child)

    def _note_child(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before[signal.Signals(number)](number, frame)
        except RuntimeError as error:
            if not any(words in str(error) for words in _ENDED_WORDS):
                raise
            self.lost_worker = error

    def _note(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(signal.Signals(number))
        if self.received is not None or os.getpid() != self._pid:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number)
        logger.warning("%s: saving a checkpoint, then leaving; once more leaves at once", self.received.name)
        if callable(before):
            before(number, frame)


def _restore_in_child() -> None:
    for watch in list(_installed):
        watch.restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restore_in_child)
