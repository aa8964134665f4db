"""Show how the end of delivery is getting on, and say what is left over."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from loopwright._support.log import Logger, get_logger
from loopwright.delivery.store import standing_of
from loopwright.errors import JournalError
from loopwright.journal.reader import JournalReader

logger: Logger = get_logger(__name__)

_QUIET_SECONDS = 2.0

# Tracker, number of records that it lacks, and what stands in the way.
Leftovers = Sequence[tuple[str, int, str | None]]


class DrainProgress:
    """One line on the terminal while trackers deliver what is left, once that takes long enough to be noticed."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._is_shown = False

    def __call__(self, pending: Mapping[str, int], seconds_left: float) -> None:
        """Show the records left by tracker."""
        left = {name: number for name, number in pending.items() if number}
        if time.monotonic() - self._began < _QUIET_SECONDS or not left:
            return
        text = "delivering " + ", ".join(f"{number} record(s) to {name}" for name, number in left.items())
        if _is_terminal():
            sys.stderr.write(f"\r{text} ({seconds_left:.0f} s left)\033[K")
            sys.stderr.flush()
        elif not self._is_shown:
            logger.info("%s, for %.0f s at most", text, seconds_left)
        self._is_shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown and _is_terminal():
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def undelivered(output_dir: Path | str, run_id: str) -> Leftovers:
    """Return each tracker that lacks records of a run, how many, and what stands in the way."""
    found = []
    with JournalReader(output_dir) as reader:
        for entry in reader.sinks(run_id):
            delivered, left = standing_of(reader, entry)
            if left or not delivered.was_closed:
                found.append((entry.tracker, left, delivered.error))
    return found


def say_leftovers(output_dir: Path, run_id: str, said: Leftovers = ()) -> Leftovers:
    """Name what could not be delivered, unless it was `said`, and the command that delivers it; return it."""
    try:
        left_over = undelivered(output_dir, run_id)
    except JournalError as error:
        logger.warning("what is delivered can't be said: %s", error)
        return said
    if left_over == list(said):
        return said
    for name, left, why in left_over:
        reason, command = f" ({why})" if why else "", f"loopwright sync {output_dir} --tracker {name}"
        if left:
            logger.warning(
                "%s lacks %d record(s)%s; the journal has them. Deliver them later: %s", name, left, reason, command
            )
        else:
            logger.warning("%s has every record, and its run wasn't ended%s. End it later: %s", name, reason, command)
    return left_over


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
