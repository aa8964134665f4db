"""End what a killed session has left: its wandb-core, which outlives it by a second or more.

wandb-core is a process with a session of its own, so ending the delivery process and its group doesn't end it. What
it wrote or sent late, the next session would send again, having read back before. Ended, it can't; and what it still
had is sent by the next session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from loopwright._support.log import Logger, get_logger
from loopwright.errors import TrackerError

logger: Logger = get_logger(__name__)

_PROCESSES = Path("/proc")  # where there is none, nothing is ended
_END_SECONDS = 10.0


def end_leftovers(files: Collection[Path]) -> None:
    """End each wandb-core that has one of `files` open and has lost the process that had started it.

    Raises:
        TrackerError: one doesn't end.
    """
    if not files:
        return
    targets = {path.resolve() for path in files}
    for pid in _orphans():
        if not targets.isdisjoint(_open_files(pid)):
            logger.debug("wandb-core of a killed session (process %d) is ended", pid)
            _end(pid)


def _orphans() -> Iterator[int]:
    for entry in _PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile, or belongs to another user
            words = entry.joinpath("cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"wandb-core") and _parent(entry) != int(words[words.index(b"--pid") + 1]):
                yield int(entry.name)


def _parent(entry: Path) -> int:
    # pid (name) state parent ...: the name may hold anything.
    return int(entry.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[1])


def _open_files(pid: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for descriptor in _PROCESSES.joinpath(str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                yield descriptor.readlink()


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + _END_SECONDS
    while any(_open_files(pid)):
        if time.monotonic() > until:
            raise TrackerError(
                f"wandb-core of an earlier session (process {pid}) writes to this run and can't be ended"
            )
        time.sleep(0.02)
