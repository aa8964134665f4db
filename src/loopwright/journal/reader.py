"""Read a run's journal, from any process, while it is being written or later."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from loopwright.errors import JournalError, JournalNotFound
from loopwright.journal.repetition import Awaited
from loopwright.journal.schema import JOURNAL_NAME, LINES_NAME
from loopwright.journal.values import decode
from loopwright.journal.view import View, view_of
from loopwright.records import Kind, Record, Run, Status

Answer = TypeVar("Answer")

_RECORD_COLUMNS = "r.sequence, r.attempt, r.kind, r.step, r.time, r.data, r.tracker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One process's part of a run.

    Attributes:
        number: Counted over all runs of the journal.
        run_id: Of which run.
        purpose: "training" or "evaluation".
        started_at: Seconds since 1970.
        first_step: Optimizer updates done when it began.
        host: The machine's name.
        pid: The process.
        versions: Versions by package.
        arguments: Arguments by name, without secrets.
        parameters: What trackers show as parameters.
        ended_at: Seconds since 1970, or None.
        status: How it ended.
        reason: In words: who stopped it, which error.
    """

    number: int
    run_id: str
    purpose: str
    started_at: float
    first_step: int
    host: str
    pid: int
    versions: dict[str, str]
    arguments: dict[str, Any]
    parameters: dict[str, Any]
    ended_at: float | None
    status: Status
    reason: str | None


@dataclass(frozen=True, slots=True)
class SinkEntry:
    """A tracker that a run reports to.

    Attributes:
        run_id: The run.
        tracker: The tracker's name in this run.
        class_path: Its class, as "module:name".
        options: "arguments" of its constructor; "takes_own_records", instead of the run's; "attends" the training,
            though there be nothing to deliver.
        environment: The environment variables that say where and how it reports, without secrets.
        place: "delivery" for a process of its own, "training" for the training's.
        wants_checkpoints: Whether it takes checkpoints' files.
    """

    run_id: str
    tracker: str
    class_path: str
    options: dict[str, Any]
    environment: dict[str, str]
    place: str
    wants_checkpoints: bool


def find_journal(output_dir: Path | str) -> Path | None:
    """Return the journal's file in `output_dir`, or None where there is none."""
    for name in (JOURNAL_NAME, LINES_NAME):
        if (path := Path(output_dir) / name).is_file() and path.stat().st_size > 0:  # else it is only just being made
            return path
    return None


def find_journals(directory: Path | str) -> list[Path]:
    """Return the folders that hold a journal: `directory` itself, and those in it, as a search's trials are."""
    place = Path(directory)
    inner = sorted(place.glob("*/")) if place.is_dir() else []
    return [folder for folder in (place, *inner) if find_journal(folder) is not None]


class JournalReader:
    """Answers questions about the journal in `output_dir`. May be shared by threads.

    Raises:
        JournalNotFound: there is none.
        JournalError: it can't be read.
    """

    def __init__(self, output_dir: Path | str) -> None:
        path = find_journal(output_dir)
        if path is None:
            raise JournalNotFound(f"{output_dir} holds no journal ({JOURNAL_NAME})")
        self.path = path
        self._lock = threading.Lock()
        self._pid = os.getpid()
        try:
            self._view = view_of(path)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{path} can't be read: {error}") from error

    def close(self) -> None:
        """Close the file."""
        if self._pid == os.getpid():  # a thread of the parent's may hold an inherited lock for ever
            with self._lock:
                self._view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # Questions

    def check(self) -> None:
        """Read the whole file once: 0.2 s for a million records.

        Raises:
            JournalError: it is damaged.
        """
        for (found,) in self._ask("PRAGMA quick_check(1)"):
            if found != "ok":
                raise JournalError(f"{self.path} is damaged: {found}")

    def change_counter(self) -> tuple[int, ...]:
        """Return what is another one when something was written."""
        return self._look(lambda view: view.change_counter())

    def runs(self) -> list[Run]:
        """Return the runs, the oldest first."""
        rows = self._ask(
            "SELECT id, created_at, name, project, parent_id, parent_step, trial_name, trial_parameters "
            "FROM runs ORDER BY created_at"
        )
        return [self._run(row) for row in rows]

    def run(self, run_id: str) -> Run | None:
        """Return one run, or None."""
        return next((run for run in self.runs() if run.id == run_id), None)

    def attempts(self, run_id: str | None = None) -> list[Attempt]:
        """Return the attempts of a run, or all, the oldest first."""
        return self._make(
            _attempt,
            "SELECT number, run_id, purpose, started_at, first_step, host, pid, versions, arguments, parameters, "
            "ended_at, status, reason FROM attempts WHERE ? IS NULL OR run_id = ? ORDER BY number",
            (run_id, run_id),
        )

    def sinks(self, run_id: str | None = None) -> list[SinkEntry]:
        """Return the trackers that a run, or any run, reports to."""
        return self._make(
            _sink,
            "SELECT run_id, tracker, class, options, environment, place, wants_checkpoints FROM sinks "
            "WHERE ? IS NULL OR run_id = ? ORDER BY run_id, tracker",
            (run_id, run_id),
        )

    def records(  # noqa: PLR0913 -- conditions, each with a default
        self,
        run_id: str | None = None,
        *,
        after: int = 0,
        kinds: Iterable[Kind] | None = None,
        tracker: str | None = None,
        limit: int = -1,
        from_step: int | None = None,
    ) -> list[Record]:
        """Return records that still count, in their order.

        Arguments:
            run_id: Of this run only.
            after: Only those with a higher number.
            kinds: Only of these kinds.
            tracker: With those that are for this tracker alone, and no costs; by default only those for all.
            limit: At most so many.
            from_step: Only those of this step and later.
        """
        conditions, values = self._conditions(run_id, after, kinds, tracker)
        if from_step is not None:
            conditions.append("r.step >= ?")
            values.append(from_step)
        return self._make(
            _record,
            f"SELECT {_RECORD_COLUMNS} FROM records r WHERE {' AND '.join(conditions)} ORDER BY r.sequence LIMIT ?",
            (*values, limit),
        )

    def awaited(self, run_id: str, *, after: int, kinds: Iterable[Kind]) -> list[Awaited]:
        """Return a run's records that still count, whatever tracker they are for, as a repetition wants them."""
        wanted = [str(kind) for kind in kinds]
        return self._make(
            _awaited,
            "SELECT sequence, kind, step, data, added, tracker FROM records WHERE sequence > ? "
            "AND dropped_by IS NULL AND attempt IN (SELECT number FROM attempts WHERE run_id = ?) "
            f"AND kind IN ({', '.join('?' * len(wanted))}) ORDER BY sequence",
            (after, run_id, *wanted),
        )

    def count(self, run_id: str, *, after: int = 0, tracker: str | None = None) -> int:
        """Return how many records `records` would return for a tracker."""
        conditions, values = self._conditions(run_id, after, None, tracker)
        ((number,),) = self._ask(f"SELECT count(*) FROM records r WHERE {' AND '.join(conditions)}", values)
        return int(number)

    def last_sequence(self, run_id: str | None = None) -> int:
        """Return the highest number of a record, 0 where there is none."""
        ((number,),) = self._ask(
            "SELECT max(sequence) FROM records WHERE ? IS NULL "
            "OR attempt IN (SELECT number FROM attempts WHERE run_id = ?)",
            (run_id, run_id),
        )
        return int(number or 0)

    def signs_of_life(self, run_id: str) -> dict[int, tuple[float, int, int]]:
        """Return, by attempt that recorded anything, the last time, the highest step and the number of its records."""
        rows = self._ask(
            "SELECT attempt, max(time), max(step), count(*) FROM records "
            "WHERE attempt IN (SELECT number FROM attempts WHERE run_id = ?) GROUP BY attempt",
            (run_id,),
        )
        return {attempt: (float(time), int(step), int(number)) for attempt, time, step, number in rows}

    @staticmethod
    def _conditions(
        run_id: str | None, after: int, kinds: Iterable[Kind] | None, tracker: str | None
    ) -> tuple[list[str], list[Any]]:
        conditions = ["r.sequence > ?", "r.dropped_by IS NULL"]
        parameters: list[Any] = [after]
        if run_id is not None:
            conditions.append("r.attempt IN (SELECT number FROM attempts WHERE run_id = ?)")
            parameters.append(run_id)
        if kinds is not None:
            wanted = [str(kind) for kind in kinds]
            conditions.append(f"r.kind IN ({', '.join('?' * len(wanted))})")
            parameters += wanted
        elif tracker is not None:  # what a training has cost is no tracker's business
            conditions.append("r.kind != 'costs'")
        return [*conditions, "(r.tracker IS NULL OR r.tracker = ?)"], [*parameters, tracker]

    def _run(self, row: tuple[Any, ...]) -> Run:
        run_id, created_at, name, project, parent_id, parent_step, trial_name, trial_parameters = row
        attempts = self.attempts(run_id)
        newest = attempts[-1] if attempts else None
        return Run(
            id=run_id,
            output_dir=str(self.path.parent.resolve()),
            name=name,
            project=project,
            created_at=created_at,
            arguments=newest.arguments if newest else {},
            parameters=newest.parameters if newest else {},
            parent_id=parent_id,
            parent_step=parent_step,
            trial_name=trial_name,
            trial_parameters=json.loads(trial_parameters) if trial_parameters else None,
        )

    # The file

    def _make(self, make: Callable[[tuple[Any, ...]], Answer], query: str, values: Iterable[Any]) -> list[Answer]:
        rows = self._ask(query, values)
        try:
            return [make(row) for row in rows]
        except ValueError as error:
            raise JournalError(f"{self.path} is damaged: {error}") from error

    def _ask(self, query: str, values: Iterable[Any] = ()) -> list[Any]:
        return self._look(lambda view: view.connection().execute(query, tuple(values)).fetchall())

    def _look(self, do: Callable[[View], Answer]) -> Answer:
        try:
            if self._pid != os.getpid():  # nothing inherited is used after a fork
                self._pid, self._lock, self._view = os.getpid(), threading.Lock(), view_of(self.path)
            with self._lock:
                return do(self._view)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self.path} can't be read: {error}") from error


def _attempt(row: tuple[Any, ...]) -> Attempt:
    number, run_id, purpose, started_at, first_step, host, pid, versions, arguments, parameters, *end = row
    ended_at, status, reason = end
    return Attempt(
        number=number,
        run_id=run_id,
        purpose=purpose,
        started_at=started_at,
        first_step=first_step,
        host=host,
        pid=pid,
        versions=json.loads(versions or "{}"),
        arguments=decode(arguments or "{}"),
        parameters=decode(parameters or "{}"),
        ended_at=ended_at,
        status=Status(status),
        reason=reason,
    )


def _record(row: tuple[Any, ...]) -> Record:
    sequence, attempt, kind, step, time, data, tracker = row
    return Record(sequence, attempt, Kind(kind), step, time, decode(data), tracker)


def _awaited(row: tuple[Any, ...]) -> Awaited:
    sequence, kind, step, data, added, tracker = row
    return Awaited(sequence, kind, step, decode(data), frozenset(json.loads(added or "[]")), tracker)


def _sink(row: tuple[Any, ...]) -> SinkEntry:
    run_id, tracker, class_path, options, environment, place, wants = row
    return SinkEntry(run_id, tracker, class_path, json.loads(options), json.loads(environment), place, bool(wants))
