"""`loopwright sync`: deliver what a run's trackers have not got yet.

The same command, with `--follow`, is the process that a training starts beside itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from loopwright._support.env import read_all, set_variables
from loopwright._support.log import Logger, get_logger, set_level
from loopwright.cli.output import shortened, shown
from loopwright.delivery.follower import EXIT_HUNG, Follower, follow, leave
from loopwright.delivery.sink import Sink
from loopwright.delivery.store import read_delivered
from loopwright.delivery.worker import Deadlines
from loopwright.errors import ArgumentError, JournalBusy, JournalNotFound
from loopwright.journal.ownership import Ownership
from loopwright.journal.reader import JournalReader, SinkEntry, find_journal, find_journals
from loopwright.journal.recorder import LOCK_NAME
from loopwright.trackers.registry import make_tracker

logger: Logger = get_logger(__name__)

_NICENESS = 5


def sync(  # noqa: PLR0913 -- the command line's options
    output_dir: Annotated[Path, typer.Argument(help="The run's output directory.", show_default=False)],
    tracker: Annotated[
        list[str] | None,
        typer.Option("--tracker", metavar="NAME", help="Only this one; may be given several times."),
    ] = None,
    use_environment: Annotated[
        bool,
        typer.Option("--use-environment", help="Let today's variables count where the run's own were others."),
    ] = False,
    call_timeout: Annotated[float, typer.Option(min=1, help="Seconds that a call into an SDK may take.")] = 120.0,
    close_timeout: Annotated[float, typer.Option(hidden=True)] = 60.0,
    beside: Annotated[bool, typer.Option("--follow", hidden=True)] = False,
) -> None:
    """Deliver to the trackers what they have not got yet. Safe to repeat."""
    if find_journal(output_dir) is None:
        is_there = output_dir.exists()
        said = f"{output_dir} holds no journal: give the output_dir of a training"
        raise JournalNotFound(said if is_there else f"no such directory: {output_dir}")
    deadlines = Deadlines(open=max(call_timeout, 120.0), call=call_timeout, close=max(call_timeout, 60.0))
    if beside:
        _make_kind()
        follow(output_dir, make_tracker, trackers=tracker, close_seconds=close_timeout, deadlines=deadlines)
    found = {place: _trackers_of(place) for place in find_journals(output_dir)}
    _require_known(output_dir, set().union(*found.values()), tracker)
    set_level(logging.WARNING)
    for place in found:
        _require_idle(place)
    # Those of a search's trials lie below; the journal of the search itself reports to nobody.
    places = [place for place, names in found.items() if names] or [output_dir]
    leave(max(_sync(place, tracker, deadlines, use_environment, is_alone=len(places) == 1) for place in places))


def _sync(
    place: Path, trackers: list[str] | None, deadlines: Deadlines, use_environment: bool, *, is_alone: bool
) -> int:
    if not is_alone:
        Console().print(shown(f"{place}:"))
    return _deliver(place, trackers, deadlines, use_environment=use_environment)


def _deliver(output_dir: Path, trackers: list[str] | None, deadlines: Deadlines, *, use_environment: bool) -> int:
    console = Console()

    def make_sink(entry: SinkEntry) -> Sink:
        return make_tracker(_with_environment(entry, use_environment=use_environment))

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = _Bars(progress)
        follower = Follower(output_dir, make_sink, trackers=trackers, deadlines=deadlines, on_progress=bars.show)
        status = follower.run()
        bars.show(follower.left_by_tracker())
    _summarize(console, follower)
    return 1 if status == EXIT_HUNG else status


class _Bars:
    """One bar for each tracker, as long as what was left when it was first seen."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, tuple[TaskID, int]] = {}

    def show(self, left: dict[str, int]) -> None:
        """Move the bars to where so many records are left, by tracker."""
        for name, number in left.items():
            if name not in self._bars:
                total = max(number, 1)
                self._bars[name] = (self._progress.add_task(name, total=total), total)
            bar, total = self._bars[name]
            self._progress.update(bar, completed=total - number)


def _summarize(console: Console, follower: Follower) -> None:
    if not follower.workers:
        console.print("nothing to deliver: every tracker has everything", highlight=False)
    for (run_id, name), worker in follower.workers.items():
        left = worker.pending()
        refused = read_delivered(follower.output_dir, run_id, name).refused
        why = "no answer in time" if name in follower.hung else worker.error
        text = f"{name}, run {run_id[:8]}: " + ("everything is delivered" if left == 0 and not why else f"{left} left")
        if why:
            text += f" ({shortened(why)})"
        if refused:
            text += f"; {refused} record(s) that it will not take"
        console.print(shown(text))


def _with_environment(entry: SinkEntry, *, use_environment: bool) -> SinkEntry:
    """Return `entry` as it is to be used, its variables set for the SDK where they aren't."""
    present = read_all(entry.environment)
    for name, text in entry.environment.items():
        if present.get(name, text) != text:
            which = "today's counts" if use_environment else "the run's counts"
            logger.warning("%s is %r today and was %r for the run: %s", name, present[name], text, which)
    wanted = entry.environment | present if use_environment else entry.environment
    set_variables(wanted)
    return SinkEntry(
        entry.run_id, entry.tracker, entry.class_path, entry.options, wanted, entry.place, entry.wants_checkpoints
    )


def _trackers_of(output_dir: Path) -> set[str]:
    """Return the trackers of all runs in a journal."""
    with JournalReader(output_dir) as reader:
        return {entry.tracker for entry in reader.sinks()}


def _require_known(output_dir: Path, known: set[str], trackers: list[str] | None) -> None:
    for name in trackers or ():
        if name not in known:
            listed = ", ".join(sorted(known)) or "no tracker"
            raise ArgumentError(f"--tracker {name}: the runs in {output_dir} report to {listed}")


def _require_idle(output_dir: Path) -> None:
    """Refuse where a training writes the journal: it delivers by itself."""
    lock = Ownership(output_dir / LOCK_NAME, "training and delivering")
    try:
        lock.acquire()
    except JournalBusy:
        raise
    except OSError:
        return  # the directory can be read only, so nobody trains in it from here
    lock.release()


def _make_kind() -> None:
    """Give way to the training on a machine that both want."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
        if os.getsid(0) == os.getpid():
            # Linux may share its time among sessions first: then that counts among a session's own processes alone.
            with contextlib.suppress(OSError):
                Path("/proc/self/autogroup").write_text(str(_NICENESS))
