"""Keep a run's journal: what a Trainer talks to.

A record is safe once `record` returns. Where the disk fails, records are held in memory, which is said loudly, and
written as soon as the disk takes them again: training never stops for its journal.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import JournalBusy, JournalError
from loopwright.journal.file import LOCK_NAME, JournalFile, number_beyond
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.repetition import Awaited, Difference, Repetition, rewinds_to
from loopwright.journal.schema import Operation
from loopwright.journal.values import decode, encode, storable
from loopwright.records import Decision, Kind, Run, Status

__all__ = ["LOCK_NAME", "Recorder"]

logger: Logger = get_logger(__name__)


class Recorder:
    """Writes the journal in `output_dir`; one at a time in all processes.

    Arguments:
        output_dir: The directory; made where there is none.

    Attributes:
        position: The number of the newest record.
        attempt: Number of the attempt under way or last ended; None before the first.
        is_writing: Whether an attempt is under way.
        unwritten: How many statements wait in memory for the disk.
    """

    # Of this process, by directory: an idle one makes way for the next Trainer's.
    _open: ClassVar[dict[Path, Recorder]] = {}

    def __init__(self, output_dir: Path | str) -> None:
        self.output_dir: Path = Path(output_dir).resolve()
        self.position: int = 0
        self.attempt: int | None = None
        self.run: Run | None = None
        self.is_writing: bool = False
        self.is_deterministic = False
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._file = JournalFile(self.output_dir)
        self._purpose = "training"
        self._last_attempt = 0
        self._decisions: list[Operation] = []
        self._repetition = Repetition()
        self._has_diverged = False

    # Life

    def open(self) -> None:
        """Take the journal, and close attempts that a kill left open.

        Raises:
            JournalBusy: another process, or another training in this one, writes it.
            JournalError: a newer Loopwright wrote it.
        """
        if self._file.is_open:
            return
        self._ask_for_way()
        self._pid = os.getpid()
        standing = self._file.open()
        self.position, self._last_attempt = standing.position, standing.last_attempt
        self._open[self.output_dir] = self
        _close_at_exit()
        killed = (time.time(), str(Status.KILLED), "found open by the next start")
        self._commit([("end", (*killed, attempt)) for attempt in standing.left_open])

    def _ask_for_way(self) -> None:
        before = self._open.get(self.output_dir)
        if before is None or before is self or before._is_inherited():
            return
        if before.is_writing and before._purpose == "training":
            raise JournalBusy(
                f"{self.output_dir}: another training of this process writes its journal: give each its own output_dir"
            )
        before.close()

    def close(self) -> None:
        """End what is under way, bring everything onto the disk, and let the journal go."""
        if self._is_inherited():
            self._forget_inherited()
            return
        if self.is_writing and self._purpose == "training":
            self.end_attempt(Status.INTERRUPTED, "the program left in the middle")
        elif self.is_writing:
            self.end_attempt(Status.COMPLETED)
        with self._lock:
            self._file.close()
            if self._open.get(self.output_dir) is self:
                del self._open[self.output_dir]

    @property
    def unwritten(self) -> int:
        """How many statements wait in memory for the disk."""
        return len(self._file.unwritten)

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._file.path

    # Runs and attempts

    def begin_attempt(
        self,
        run: Run,
        *,
        purpose: str,
        first_step: int = 0,
        resumed_at: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> int:
        """Begin an attempt of `run`, and return its number.

        Arguments:
            run: Which; recorded where it is new.
            purpose: "training" or "evaluation".
            first_step: Optimizer updates done.
            resumed_at: What `whereabouts` returned at the checkpoint: what was recorded after it is awaited again.
            versions: Versions by package.
        """
        self.open()
        if self.is_writing:
            self.end_attempt(Status.COMPLETED)
        self._repetition = self._await_again(run.id, resumed_at, first_step)
        self._has_diverged = False
        self._last_attempt += 1
        self.run, self.attempt, self.is_writing, self._purpose = run, self._last_attempt, True, purpose
        attempt = _attempt_operation(run, self.attempt, purpose, first_step, versions or {})
        self._file.opening = [_run_operation(run), attempt]
        self._commit(self._file.opening)
        if resumed_at is not None and resumed_at["position"] > self.position:
            # The checkpoint knows of records that this journal doesn't: those are lost. What trackers were given is
            # not known here, so numbers go on beyond theirs, and what they show of later steps no longer counts.
            self.position = number_beyond()
            self._commit([self._rewind(first_step + 1)])
        return self.attempt

    def add_sink(self, entry: SinkEntry) -> None:
        """Record that a run reports to a tracker."""
        values = (
            entry.run_id,
            entry.tracker,
            entry.class_path,
            encode(entry.options)[0],
            encode(entry.environment)[0],
            entry.place,
            int(entry.wants_checkpoints),
        )
        self._file.opening.append(("sink", values))
        self._commit([("sink", values)])

    def end_attempt(self, status: Status, reason: str | None = None) -> None:
        """Record how the attempt under way ended, and sync."""
        if not self.is_writing or self._is_inherited():
            return
        if status.is_success:
            # The training is over, and these did not come again.
            self._drop(self._repetition.give_up())
        self.is_writing = False
        end = ("end", (time.time(), str(status), storable(reason), self.attempt))
        self._file.opening.append(end)
        self._commit([end])
        self.sync()

    # Records

    def record(
        self,
        kind: Kind,
        step: int,
        values: Mapping[str, Any],
        *,
        added: Collection[str] = (),
        tracker: str | None = None,
    ) -> int:
        """Append a record and return its number; that of the old one where a resumed run repeats it.

        Arguments:
            kind: What it holds.
            step: Optimizer updates done.
            values: By name. What can't be stored is left out, and named once.
            added: Those of them that callbacks added.
            tracker: The one tracker that it is for.
        """
        if self._is_inherited():
            return self.position
        with self._lock:
            if not self._file.is_open:  # another recorder of this process was made way for
                self.open()
            text, left_out = encode(values)
            for entry in left_out:
                warn_once(logger, f"the journal can't hold {entry}: left out from here on")
            if self._repetition and self.is_writing:
                found = self._repetition.take(kind, step, decode(text), frozenset(added), tracker)
                if isinstance(found, int):
                    return found
                if found is not None:
                    self._diverge(found)
            self._write([self._as_operation(kind, step, text, added, tracker)])
            return self.position

    def decide(self, decision: Decision) -> None:
        """Record who set a flag; it is written with the next record, save or end."""
        if self._is_inherited() or not self.is_writing:
            return
        values = {
            "callback": decision.callback,
            "event": decision.event,
            "flag": decision.flag,
            "value": decision.value,
        }
        with self._lock:
            if self._repetition:
                found = self._repetition.take(Kind.DECISION, decision.step, values, frozenset(), None)
                if isinstance(found, int):
                    return
            self._decisions.append(self._as_operation(Kind.DECISION, decision.step, encode(values)[0]))

    def sync(self) -> int:
        """Bring everything onto the disk, and return the position."""
        if self._is_inherited():
            return self.position
        with self._lock:
            self._commit([])
            self._file.sync()
            return self.position

    def _as_operation(
        self, kind: Kind, step: int, text: str, added: Collection[str] = (), tracker: str | None = None
    ) -> Operation:
        self.position += 1
        keys = json.dumps(sorted(added)) if added else None
        return "record", (self.position, self.attempt, str(kind), step, time.time(), text, keys, tracker)

    def _rewind(self, step: int) -> Operation:
        return self._as_operation(Kind.REWIND, step, encode({"from_step": step})[0])

    def _commit(self, operations: Sequence[Operation]) -> None:
        if self._is_inherited():
            return
        with self._lock:
            self._write(operations)

    def _write(self, operations: Sequence[Operation]) -> None:
        """Commit, this process being known to hold the journal, and this thread the lock."""
        if self._decisions:
            operations, self._decisions = [*self._decisions, *operations], []
        self._file.commit(operations)

    # What a resumed run says again

    def whereabouts(self) -> dict[str, Any]:
        """Return the position as a checkpoint keeps it: the newest record, and those before it still awaited again."""
        return {"position": self.position, "awaited": self._repetition.sequences()}

    def _await_again(self, run_id: str, resumed_at: Mapping[str, Any] | None, first_step: int) -> Repetition:
        if resumed_at is None:
            return Repetition()
        position, earlier = resumed_at["position"], set(resumed_at.get("awaited", ()))
        again = (Kind.LOG, Kind.PREDICTION, Kind.DECISION, Kind.CHECKPOINT, Kind.ARTIFACT)
        try:
            with JournalReader(self.output_dir) as reader:
                found = reader.awaited(run_id, after=min([position + 1, *earlier]) - 1, kinds=again)
        except JournalError as error:
            logger.warning("what was recorded before can't be compared with what comes: %s", error)
            return Repetition()
        awaited = [record for record in found if record.sequence > position or record.sequence in earlier]
        # The checkpoint that the run goes on from was recorded after its position was taken; it is not made again.
        is_made = (Kind.CHECKPOINT, Kind.ARTIFACT)
        return Repetition(
            (record for record in awaited if not (record.kind in is_made and record.step <= first_step)), first_step
        )

    def take_back(self) -> None:
        """Let all that is awaited again count no longer: it will not come."""
        self._drop(self._repetition.give_up())

    def _diverge(self, difference: Difference) -> None:
        self._drop(self._repetition.give_up())
        if self._has_diverged:
            return
        self._has_diverged = True
        if self.is_deterministic or not difference.is_small:
            logger.warning("diverged at step %d: %s; the new values count", difference.step, difference.text)
        else:
            logger.info("differs by rounding from step %d on: %s", difference.step, difference.text)

    def _drop(self, records: list[Awaited]) -> None:
        if not records:
            return
        operations: list[Operation] = [("drop", (self.attempt, record.sequence)) for record in records]
        step = rewinds_to(records)
        if step is not None:
            operations.append(self._rewind(step))
        self._commit(operations)

    # Forks

    def _is_inherited(self) -> bool:
        return self._pid != os.getpid()

    def _forget_inherited(self) -> None:
        """Let go of what is the parent's; a thread of his may hold the lock for ever here."""
        self._lock = threading.RLock()
        self._file = JournalFile(self.output_dir)
        self._decisions, self._repetition, self.is_writing = [], Repetition(), False

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a journal stays with its process")


def _run_operation(run: Run) -> Operation:
    trial = None if run.trial_parameters is None else encode(run.trial_parameters)[0]
    name, project, trial_name = storable(run.name), storable(run.project), storable(run.trial_name)
    return "run", (run.id, run.created_at, name, project, run.parent_id, run.parent_step, trial_name, trial)


def _attempt_operation(run: Run, number: int, purpose: str, first_step: int, versions: Mapping[str, str]) -> Operation:
    described = [encode(values)[0] for values in (versions, run.arguments, run.parameters)]
    return "attempt", (number, run.id, purpose, time.time(), first_step, platform.node(), os.getpid(), *described)


_closes_at_exit = False


def _close_at_exit() -> None:
    global _closes_at_exit  # noqa: PLW0603 -- once in a process
    if not _closes_at_exit:
        _closes_at_exit = True
        atexit.register(_close_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget_all)


def _close_all() -> None:
    for recorder in list(Recorder._open.values()):
        recorder.close()


def _forget_all() -> None:
    for recorder in list(Recorder._open.values()):
        recorder._forget_inherited()
    Recorder._open.clear()
