"""Read all that is known of a run from its output directory: offline, without torch, while it trains or later.

`RUN` on a command line is an output directory (its newest run), or `DIR:ID` with the first digits of a run's id.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from loopwright.delivery.store import standing_of
from loopwright.errors import ArgumentError, JournalError, JournalNotFound
from loopwright.journal.file import LOCK_NAME
from loopwright.journal.ownership import is_owned
from loopwright.journal.reader import JournalReader, find_journal, find_journals
from loopwright.records import Decision, Kind, Record, Run, Status
from loopwright.report.checkpoints import read_checkpoints
from loopwright.report.defaults import find_differences
from loopwright.report.numbers import best_of, costs_of, series_of
from loopwright.report.views import AttemptView, RunView, TrackerView

_ID = re.compile(r"[0-9a-f]{4,32}")


def read_run(directory: Path | str, run_id: str | None = None, *, verify: bool = False) -> RunView:
    """Return all that is known of a run.

    Arguments:
        directory: Its output directory.
        run_id: Its id, or the first digits of it, four or more; by default the newest run.
        verify: Read every byte of its checkpoints, which loads torch, rather than compare the files' sizes.

    Raises:
        JournalNotFound: there is no journal, or no run in it.
        ArgumentError: no run has such an id, or several have.
        JournalError: the journal can't be read.
    """
    place = _require_journal(Path(directory))
    with JournalReader(place) as reader:
        return _view(reader, place, _choose(place, reader.runs(), run_id), verify=verify)


def find_runs(directory: Path | str) -> list[RunView]:
    """Return the runs in `directory`, or in the folders in it, folder by folder, the oldest first.

    Raises:
        JournalNotFound: there is no journal.
        JournalError: one can't be read.
    """
    places = find_journals(directory)
    if not places:
        _require_directory(Path(directory))
        raise JournalNotFound(f"{directory} holds no journal, nor does a folder in it")
    found = []
    for place in places:
        with JournalReader(place) as reader:
            found += [_view(reader, place, run) for run in reader.runs()]
    return found


def parse_run(text: str, run_id: str | None = None) -> tuple[Path, str | None]:
    """Return the directory and the id that `RUN` on a command line says; `run_id` is its option `--run`.

    A directory that is there is one, also with a colon in its name.

    Raises:
        ArgumentError: the id is said twice, or is none.
    """
    directory, colon, named = text.rpartition(":")
    if not colon or not directory or Path(text).exists():
        return Path(text), run_id
    if run_id is not None:
        raise ArgumentError(f"{text} says a run already: leave out --run {run_id}")
    return Path(directory), _require_id(named)


def _require_journal(directory: Path) -> Path:
    try:
        if find_journal(directory) is not None:
            return directory
        inner = find_journals(directory)
    except OSError as error:
        raise JournalError(f"{directory} can't be read: {error.strerror}") from error
    if inner:
        folders = ", ".join(str(place) for place in inner[:8]) + (", …" if len(inner) > 8 else "")
        raise JournalNotFound(f"{directory} holds no journal, but folders in it do: give one of {folders}")
    _require_directory(directory)
    raise JournalNotFound(f"{directory} holds no journal: give the output_dir of a training")


def _require_directory(path: Path) -> None:
    if not path.exists():
        raise JournalNotFound(f"no such directory: {path}")
    if not path.is_dir():
        raise JournalNotFound(f"{path} is a file: give the output_dir of a training")


def _require_id(text: str) -> str:
    if not _ID.fullmatch(text.lower()):
        raise ArgumentError(f"run {text!r}: give the first digits of a run's id, 4 to 32 of 0-9 and a-f")
    return text.lower()


def _choose(place: Path, runs: Sequence[Run], run_id: str | None) -> Run:
    if not runs:
        raise JournalNotFound(f"the journal in {place} holds no run yet")
    if run_id is None:
        return runs[-1]
    if exact := [run for run in runs if run.id == run_id]:
        return exact[0]
    start = _require_id(run_id)
    alike = [run for run in runs if run.id.startswith(start)]
    if len(alike) == 1:
        return alike[0]
    known = ", ".join(run.short_id for run in (alike or runs)[-8:])
    if alike:
        raise ArgumentError(f"run {run_id} in {place} may be any of {known}: give more digits")
    raise ArgumentError(f"run {run_id}: no such run in {place}; there are {known}")


def _view(reader: JournalReader, place: Path, run: Run, *, verify: bool = False) -> RunView:
    records = reader.records(run.id, kinds=[Kind.LOG, Kind.PREDICTION, Kind.DECISION, Kind.CHECKPOINT, Kind.COSTS])
    by_kind: dict[Kind, list[Record]] = {kind: [] for kind in Kind}
    for record in records:
        by_kind[record.kind].append(record)
    attempts, is_alive = _attempts(reader, place, run)
    series = series_of(by_kind[Kind.LOG])
    return RunView(
        directory=place,
        run=run,
        attempts=attempts,
        is_alive=is_alive,
        lines=tuple(by_kind[Kind.LOG]),
        predictions=tuple(by_kind[Kind.PREDICTION]),
        series=series,
        decisions=tuple((_decision(record), record) for record in by_kind[Kind.DECISION]),
        checkpoints=read_checkpoints(place, run.id, by_kind[Kind.CHECKPOINT], verify=verify),
        trackers=_trackers(reader, run),
        differences=find_differences(run.arguments),
        versions=attempts[-1].attempt.versions if attempts else {},
        best=best_of(run.arguments, series),
        costs=costs_of(by_kind[Kind.COSTS]),
    )


def _attempts(reader: JournalReader, place: Path, run: Run) -> tuple[tuple[AttemptView, ...], bool | None]:
    found, signs = reader.attempts(run.id), reader.signs_of_life(run.id)
    is_open = bool(found) and found[-1].status is Status.RUNNING
    is_alive = is_owned(place / LOCK_NAME) if is_open else False
    views = []
    for attempt in found:
        last_sign, last_step, num_records = signs.get(attempt.number, (attempt.started_at, attempt.first_step, 0))
        status, until = attempt.status, attempt.ended_at
        if status is Status.RUNNING and is_alive is False:
            status = Status.KILLED
        if status is Status.KILLED or until is None:
            # A killed attempt is closed by the next start, which may be days later.
            until = time.time() if status is Status.RUNNING and is_alive else last_sign
        views.append(AttemptView(attempt, status, until, max(last_step, attempt.first_step), num_records))
    return tuple(views), is_alive


def _decision(record: Record) -> Decision:
    said = record.values
    callback, event, flag = (str(said.get(name, "")) for name in ("callback", "event", "flag"))
    return Decision(record.step, callback, event, flag, bool(said.get("value")))


def _trackers(reader: JournalReader, run: Run) -> tuple[TrackerView, ...]:
    views = []
    for entry in reader.sinks(run.id):
        delivered, left = standing_of(reader, entry)
        error = delivered.error if left else None
        views.append(
            TrackerView(
                entry.tracker, entry.place, left, error, delivered.failed_at if error else None, delivered.refused
            )
        )
    return tuple(views)
