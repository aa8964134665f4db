"""One writer at a time, and nothing inherited is used after a fork.

The lock is the system's record lock: it ends with the process that took it, however that dies, and forked children
(data-loading workers that outlive a kill by some seconds) don't hold it on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import sqlite3
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import JournalBusy

logger: Logger = get_logger(__name__)

# What a lock that another process holds is answered with, by one system or another.
_HELD_ELSEWHERE = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond the text, so that others can read it
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Ownership:
    """The right to write a journal, or to deliver it.

    Arguments:
        path: The lock's file; it stays when the lock is released.
        purpose: What the owner does, for the message that others get.
    """

    # The system's lock doesn't hold against its own process, so that is kept here: by path.
    _held: ClassVar[dict[Path, Ownership]] = {}

    def __init__(self, path: Path, purpose: str) -> None:
        self.path: Path = path.resolve()
        self.purpose = purpose
        self._pid = os.getpid()
        self._descriptor: int | None = None
        self._releasing = threading.Lock()

    @property
    def is_held(self) -> bool:
        """Whether this process has it, through this object."""
        return self._descriptor is not None and self._pid == os.getpid()

    def acquire(self) -> None:
        """Take it.

        Raises:
            JournalBusy: another has it; the message says who.
            OSError: the file can't be opened.
        """
        holder = self._held.get(self.path)
        if holder is not None and holder._pid == os.getpid():
            raise JournalBusy(f"{self.path.parent}: this process is {self.purpose} it already")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                os.close(descriptor)
                raise JournalBusy(f"{self.path.parent}: {self._owner()} is {self.purpose} it") from None
            warn_once(
                logger,
                f"{self.path.parent}: this filesystem keeps no locks ({error}), so nothing stops a second process from "
                f"{self.purpose} it",
            )
        self._pid = os.getpid()
        self._descriptor = descriptor
        self._held[self.path] = self
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            text = json.dumps({"pid": self._pid, "host": platform.node(), "since": round(time.time(), 3)})
            os.pwrite(descriptor, text.encode(), 0) if hasattr(os, "pwrite") else os.write(descriptor, text.encode())

    def release(self) -> None:
        """Give it back; nothing happens where it isn't held, or was taken before a fork."""
        with self._releasing:  # a worker that hung may end while it is given up
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._pid == os.getpid():
            self._held.pop(self.path, None)
            os.close(descriptor)

    def _owner(self) -> str:
        found: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or "pid" not in found:
            return "another process"
        return f"process {found['pid']} on {found.get('host')}"


def is_owned(path: Path) -> bool | None:
    """Return whether a process holds the lock at `path`, without ever taking it; None where that can't be told."""
    holder = Ownership._held.get(path.resolve())
    if holder is not None and holder.is_held:
        return True  # closing the file here would let this process's own lock go
    if sys.platform != "linux":
        return None
    # struct flock of Linux: type, whence, start, length, process
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except FileNotFoundError:
        return False
    except OSError:  # a filesystem that keeps no locks
        return None
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


class Connection(sqlite3.Connection):
    """A connection to SQLite that no forked child closes, by itself or at its end.

    Closing an inherited one takes locks that another thread of the parent may have held: it hung 13 of 23 children.
    """

    _alive: ClassVar[weakref.WeakSet[Connection]] = weakref.WeakSet()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pid = os.getpid()
        self._alive.add(self)

    def close(self) -> None:
        """Close it, where it was opened."""
        if self._pid == os.getpid():
            super().close()

    @classmethod
    def leave_to_parent(cls) -> None:
        """Let what this process has inherited live as long as it does: the end of an object closes it."""
        for inherited in cls._alive:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Let everything that is written inside be there, or nothing; nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ends it
            connection.execute("ROLLBACK")
        raise


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Connection.leave_to_parent)
