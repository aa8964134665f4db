"""One Trainer's journal and trackers, from the first log line to the exit.

Nothing is opened by making one: the journal is at the first `train()` or log line, the trackers with it. Only the
first process of all has either.
"""

from __future__ import annotations

import atexit
import sys
import time
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger
from loopwright.arguments.reporting import ReportingArguments
from loopwright.delivery.process import DeliveryProcess
from loopwright.delivery.store import read_delivered
from loopwright.delivery.worker import Deadlines
from loopwright.errors import JournalError
from loopwright.journal.file import sync_beside
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import describe_run, recorded_variables, versions
from loopwright.trackers.ending import DrainProgress, Leftovers, say_leftovers
from loopwright.trackers.placement import Placement, place
from loopwright.trackers.summary import print_summary

if TYPE_CHECKING:
    from loopwright.trackers.local import LocalTrackers

logger: Logger = get_logger(__name__)

_alive: weakref.WeakSet[Reporting] = weakref.WeakSet()


class Reporting:
    """Journal and trackers of the Trainer `owner`, whose `args`, `state`, `model`, `run_id` and callbacks it reads."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self.recorder: Recorder | None = None
        self._run: Run | None = None
        self._names: dict[str, Placement] = {}
        self._delivery: DeliveryProcess | None = None
        self._local: LocalTrackers | None = None
        self._last_status = Status.COMPLETED
        self._leftovers: Leftovers = ()

    def __getstate__(self) -> dict[str, Any]:
        # A copy begins a journal of its own.
        return {"_owner": self._owner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_owner"])  # type: ignore[misc]

    # Beginning

    def begin(
        self,
        purpose: str = "training",
        *,
        first_step: int = 0,
        resumed_at: Mapping[str, Any] | None = None,
        parent: tuple[str, int] | None = None,
    ) -> None:
        """Begin an attempt of the owner's run, and open its trackers.

        Arguments:
            purpose: "training" or "evaluation".
            first_step: Optimizer updates done.
            resumed_at: What the checkpoint holds of the journal, where it is one of this run.
            parent: Run and step that this one branched off.

        Raises:
            JournalBusy: another process writes this journal.
        """
        owner = self._owner
        if not owner.state.is_world_process_zero:
            return
        if self.recorder is None or self._run is None or self._run.id != owner.run_id:
            self._let_go()
        before = self._run if self._run is not None and self._run.id == owner.run_id else None
        self._run = describe_run(owner, began=before.created_at if before else None, parent=parent)
        recorder = self.recorder = self.recorder or Recorder(owner.args.output_dir)
        recorder.is_deterministic = _is_deterministic(owner.args)
        recorder.begin_attempt(
            self._run, purpose=purpose, first_step=first_step, resumed_at=resumed_at, versions=versions()
        )
        self._open_trackers()
        _alive.add(self)

    def take_back(self, reason: str, resumed_at: Mapping[str, Any] | None) -> None:
        """End the attempt as failed and begin another one; what was recorded after `resumed_at` counts no longer."""
        if self.recorder is None:
            return
        self._last_status = Status.FAILED
        self.recorder.end_attempt(Status.FAILED, reason)
        self.begin(resumed_at=resumed_at)
        self.recorder.take_back()

    def _open_trackers(self) -> None:
        if self._run is None or self.recorder is None:
            return
        trackers = self._name_trackers()
        here = []
        for name, tracker in trackers.items():
            placed = self._names[name]
            tracker._reporting = self
            tracker.sink_name = name
            tracker.takes_own_records = placed.takes_own_records
            if placed.place == "off":
                logger.info("%s is off: %s", name, placed.reason)
                continue
            self.recorder.add_sink(self._entry(tracker, placed))
            if placed.place == "training":
                logger.info("%s lives in the training process: %s", name, placed.reason)
                tracker._live = (self._owner.args, self._owner.state, self._owner.model)
                here.append(tracker)
        self._start_delivery()
        self._start_local(here)

    def _name_trackers(self) -> dict[str, TrackerCallback]:
        found: dict[str, TrackerCallback] = {}
        for callback in self._owner.callback_handler.callbacks:
            if not isinstance(callback, TrackerCallback):
                continue
            plain = callback.name or type(callback).__name__.lower()
            number = 1 + sum(name == plain or name.startswith(f"{plain}-") for name in found)
            name = plain if number == 1 else f"{plain}-{number}"
            found[name] = callback
            if name not in self._names or callback._reporting is not self:
                self._names[name] = _place(callback)
        return found

    def _entry(self, tracker: TrackerCallback, placed: Placement) -> SinkEntry:
        return SinkEntry(
            run_id=self._owner.run_id,
            tracker=tracker.sink_name,
            class_path=placed.class_path,
            options={
                "arguments": tracker.constructor_arguments(),
                "takes_own_records": placed.takes_own_records,
                "attends": tracker.attends,
            },
            environment=recorded_variables(tracker.variables),
            place=placed.place,
            wants_checkpoints=tracker.wants_checkpoints(),
        )

    def _start_delivery(self) -> None:
        names = [name for name, placed in self._names.items() if placed.place == "delivery"]
        if not names or (self.recorder is not None and self.recorder.unwritten):
            return
        args = self._owner.args
        if self._delivery is None:
            self._delivery = DeliveryProcess(
                args.output_dir,
                names,
                close_seconds=_seconds(args, "tracker_close_timeout"),
                call_seconds=_seconds(args, "tracker_call_timeout"),
            )
        self._delivery.start()

    def _start_local(self, trackers: list[TrackerCallback]) -> None:
        if not trackers or self._run is None or self.recorder is None:
            return
        from loopwright.trackers.local import LocalTrackers  # loads torch, for the random states

        args = self._owner.args
        call_seconds = _seconds(args, "tracker_call_timeout")
        deadlines = Deadlines(open=2 * call_seconds, call=call_seconds, close=call_seconds)
        if self._local is None:
            try:
                self._local = LocalTrackers(
                    self.recorder.output_dir, self._run, trackers, status=self._status, deadlines=deadlines
                )
            except JournalError as error:
                logger.warning("trackers of this process are not opened, the journal being in memory: %s", error)
                return
        self._local.open(_seconds(args, "tracker_open_timeout"))

    def _status(self) -> Status:
        return self._last_status if self.recorder is None or not self.recorder.is_writing else Status.RUNNING

    # In between

    def log(self, line: Mapping[str, Any], added: Collection[str] = (), kind: Kind = Kind.LOG) -> None:
        """Record a log line of the owner's present step; `added` are those keys that callbacks added."""
        state = self._owner.state
        if not state.is_world_process_zero:
            return
        recorder = self._ready()
        values = dict(line)
        values.pop("step", None)
        recorder.record(kind, state.global_step, values, added=added)
        self._wake()

    def record_for(self, tracker: TrackerCallback, state: Any, logs: Mapping[str, Any]) -> None:
        """Record a log line for one tracker alone."""
        self._ready().record(Kind.LOG, state.global_step, logs, tracker=tracker.sink_name)
        self._wake()

    def decide(self, decision: Decision) -> None:
        """Record who set a flag."""
        if self.recorder is not None:
            self.recorder.decide(decision)

    def note_checkpoint(self, path: Path, step: int | None = None, **details: Any) -> None:
        """Record a checkpoint that is on the disk, of the present step unless another one is given."""
        if self.recorder is None:
            return
        values = {"path": _relative(path, self.recorder.output_dir), **details}
        self.recorder.record(Kind.CHECKPOINT, self._owner.state.global_step if step is None else step, values)

    def note_costs(self, account: Mapping[str, Any]) -> None:
        """Record where the time of the attempt under way went so far; trackers leave it alone."""
        if self.recorder is not None and self.recorder.is_writing:
            self.recorder.record(Kind.COSTS, self._owner.state.global_step, account)

    def note_resumed(self, checkpoint: Path) -> None:
        """Record the checkpoint gone on from, where a kill came between its appearance and its record."""
        if self.recorder is None or self._run is None:
            return
        name = _relative(checkpoint, self.recorder.output_dir)
        try:
            with JournalReader(self.recorder.output_dir) as reader:
                recorded = reader.records(self._run.id, kinds=[Kind.CHECKPOINT])
        except JournalError as error:
            logger.debug("which checkpoints are recorded can't be said: %s", error)
            return
        if all(record.values["path"] != name for record in recorded):
            self.note_checkpoint(checkpoint)

    def note_artifact(self, path: Path, tracker: str | None = None, **details: Any) -> None:
        """Record files for trackers to take, or for one of them."""
        recorder = self._ready()
        values = {"path": _relative(path, recorder.output_dir), **details}
        recorder.record(Kind.ARTIFACT, self._owner.state.global_step, values, tracker=tracker)

    def whereabouts(self, *, syncs: bool = True) -> dict[str, Any] | None:
        """Return what a checkpoint keeps of the journal; it is on the disk then, or that is left to `sync_beside`."""
        if self.recorder is None:
            return None
        if syncs:
            self.recorder.sync()
        return self.recorder.whereabouts()

    def sync_beside(self) -> None:
        """Bring the journal onto the disk from another thread: a checkpoint must not outlive what it refers to."""
        recorder = self.recorder
        try:
            if recorder is not None:
                sync_beside(recorder.output_dir)
        except (OSError, JournalError) as error:
            logger.warning("the journal could not be synced: %s", error)

    def checkpoints_in_use(self) -> list[Path]:
        """Return the checkpoints that a tracker has still to take: rotation leaves them alone."""
        if self.recorder is None or self._run is None:
            return []
        found: set[Path] = set()
        try:
            with JournalReader(self.recorder.output_dir) as reader:
                for entry in reader.sinks(self._run.id):
                    if entry.wants_checkpoints:
                        cursor = read_delivered(self.recorder.output_dir, entry.run_id, entry.tracker).cursor
                        records = reader.records(entry.run_id, after=cursor, kinds=[Kind.CHECKPOINT])
                        found |= {self.recorder.output_dir / record.values["path"] for record in records}
        except JournalError as error:
            logger.debug("which checkpoints are in use can't be said: %s", error)
        return sorted(found)

    def ready(self) -> None:
        """Begin a run where a log line comes before or without training: trackers are open when they hear it."""
        if self._owner.state.is_world_process_zero:
            self._ready()

    def _ready(self) -> Recorder:
        if self.recorder is None or self.recorder.attempt is None or self.recorder.run is not self._run:
            self.begin("evaluation")
        if self.recorder is None:
            raise JournalError("there is no journal on this process")  # begin() makes one, or raises
        return self.recorder

    def _wake(self) -> None:
        """Let trackers go on that had ended with the training."""
        if self.recorder is not None and not self.recorder.is_writing:
            self._start_delivery()
            if self._local is not None:
                self._local.start()

    # Ending

    def end(self, status: Status, reason: str | None = None) -> None:
        """Record how the attempt ended, and let the trackers deliver what is left, within `tracker_close_timeout`."""
        if self.recorder is None:
            return
        self._last_status = status
        self.recorder.end_attempt(status, reason)
        self._drain()
        # Where a progress bar is wanted, somebody looks.
        if self._run is not None and self._owner.is_in_train and not self._owner.args.disable_tqdm:
            off = {name: str(placed.reason) for name, placed in self._names.items() if placed.place == "off"}
            print_summary(self.recorder.output_dir, self._run.id, off)

    def close(self) -> None:
        """End what is under way, and let everything go."""
        if self.recorder is not None:
            if not self.recorder.is_writing:
                self._drain()
            elif self._owner.is_in_train:
                self.end(Status.INTERRUPTED, "the program left in the middle")
            else:
                self.end(Status.COMPLETED)
        self._let_go()
        _alive.discard(self)

    def _drain(self) -> None:
        if self.recorder is None or self._run is None:
            return
        until = time.monotonic() + _seconds(self._owner.args, "tracker_close_timeout")
        progress = DrainProgress()
        if self._local is not None:
            self._local.finish()
        if self._delivery is not None:
            self._delivery.drain(progress)
        while self._local is not None and not self._local.are_done() and (left := until - time.monotonic()) > 0:
            progress(self._local.pending(), left)
            time.sleep(0.02)
        progress.clear()
        if self._local is not None:
            for name, seconds in self._local.seconds().items():
                logger.info("%s took %.1f s on its own thread of this process", name, seconds)
        self._leftovers = say_leftovers(self.recorder.output_dir, self._run.id, self._leftovers)

    def _let_go(self) -> None:
        if self._local is not None:
            self._local.stop()
        if self._delivery is not None:
            self._delivery.finish()
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = self._run = self._delivery = self._local = None
        self._names = {}


def _place(tracker: TrackerCallback) -> Placement:
    """Return where a tracker lives; off, and said loudly, where a variable of its can't be understood."""
    try:
        placed = place(tracker)
        tracker.wants_checkpoints()
    except Exception as error:
        logger.error("%s is left out: %s", type(tracker).__name__, error)
        return Placement("off", str(error), "")
    return placed


def _is_deterministic(args: Any) -> bool:
    torch = sys.modules.get("torch")
    return bool(getattr(args, "full_determinism", False)) or (
        torch is not None and bool(torch.are_deterministic_algorithms_enabled())
    )


def _seconds(args: Any, name: str) -> float:
    # Another library's arguments have no such field.
    return float(getattr(args, name, getattr(ReportingArguments, name)))


def _relative(path: Path, output_dir: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(output_dir)) if resolved.is_relative_to(output_dir) else str(resolved)


def _close_all() -> None:
    for reporting in list(_alive):
        reporting.close()


atexit.register(_close_all)
