"""Tell whether a training is at work beside this process, or what is delivered is long over."""

from __future__ import annotations

import os
import platform

from loopwright.errors import JournalError
from loopwright.journal.reader import JournalReader
from loopwright.records import Run, Status


def training_beside(run: Run) -> int | None:
    """Return the process that trains `run` right now: this one or the one that started it; None where neither does."""
    try:
        with JournalReader(run.output_dir) as reader:
            newest = reader.attempts(run.id)[-1]
    except (JournalError, IndexError):
        return None
    is_here = newest.host == platform.node() and newest.pid in {os.getpid(), os.getppid()}
    return newest.pid if is_here and newest.status is Status.RUNNING else None
