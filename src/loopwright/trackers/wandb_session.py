"""One opening of a W&B run: put rows together, send them, and watch until the run's local file holds them.

    record ──▶ the row of its step ──▶ another step, a pause or the end: sent ──▶ in wandb-core's buffer ──▶ in the file
                                                                                                       confirmed

W&B drops a row whose own step (`_step`) is not above the last one's. So a row that comes late, of a step that is over,
gets the next free number; charts are drawn over `train/global_step`, which is always right.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.errors import TrackerError, describe
from loopwright.records import Record, Status
from loopwright.trackers.naming import group_name
from loopwright.trackers.wandb_files import GLOBAL_STEP, MARKER, Holdings, LogFile, run_files
from loopwright.trackers.wandb_leftovers import end_leftovers

logger: Logger = get_logger(__name__)

# What transformers shows beside the run rather than as a curve; here it is both.
SINGLE_VALUES = frozenset(
    {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
)
# Evaluation usually follows its step's log line within that; a viewer of the charts doesn't wait longer.
_PAUSE_SECONDS = 30.0
_LOOK_SECONDS = 2.0
# wandb-core closes the file a moment after the run's end has been answered.
_WRITE_SECONDS = 10.0
# Ids of runs that were begun by this process, and have not ended.
begun_here: set[str] = set()
_FATAL = re.compile(r'"msg":"(filestream: fatal error[^"]*)')


@dataclass
class _Row:
    """The values of one step, not yet sent."""

    step: int
    values: dict[str, Any] = field(default_factory=dict)
    single: dict[str, Any] = field(default_factory=dict)
    record: int = 0
    time: float = 0.0
    changed_at: float = 0.0

    def has_room_for(self, step: int, values: Mapping[str, Any]) -> bool:
        """Return whether `values` can join without hiding another number."""
        return step == self.step and all(same(self.values.get(name, value), value) for name, value in values.items())


@dataclass(frozen=True)
class _Unsafe:
    """What is sent, and not known to be in the file."""

    record: int
    artifact: tuple[str, str] | None = None
    directory: Path | None = None  # to be removed once the artifact is safe


class Session:
    """A W&B run from its opening to its end.

    Arguments:
        run: The SDK's run.
        is_users: Whether the user's program began it: then it is not ended here.
        counts_steps: Whether W&B's own step is the global one. Not in the training process, where the program's own
            `wandb.log` calls count it.

    Attributes:
        held: Number of the newest record that W&B has got, in this session or before.
    """

    def __init__(self, run: Any, *, is_users: bool, counts_steps: bool) -> None:
        self.run = run
        self.is_users = is_users
        self.held: int = 0
        self._counts_steps = counts_steps
        self._next_number = 0
        self._row: _Row | None = None
        self._unsafe: deque[_Unsafe] = deque()
        self._found = Holdings()  # in earlier files
        self._newest: tuple[int, dict[str, Any]] = (-1, {})  # the values of the last step there
        self._safe = Holdings()  # in this session's
        self._file = LogFile(Path(run.settings.sync_file))
        self._complaints = _Complaints(Path(run.settings.log_internal))
        self._looked_at = 0.0
        self._failure: TrackerError | None = None

    # What is there already

    def files(self) -> list[Path]:
        """Return the run's local files, the oldest first."""
        return run_files(self._file.path.parent.parent, str(self.run.id))

    def look_back(self, *, rewound_to: int | None = None) -> tuple[int, int]:
        """Take account of what earlier sessions left: return the newest record there, and its step.

        Offline that is what the files hold, online what the server holds.

        Arguments:
            rewound_to: W&B's own step after which nothing counts any more.
        """
        self._found = Holdings.of(path for path in self.files() if path != self._file.path)
        if rewound_to is not None:
            self._found.rewind(rewound_to)
        self._next_number = int(self.run.starting_step)
        if self.run.offline:
            self._next_number = max(self._next_number, self._found.last_number + 1)
            self._newest = self._found.newest_values
            self._keep_summary()
            return self._found.last_record()
        if self._found.last_number < self.run.starting_step:  # else the server hasn't got that row
            self._newest = self._found.newest_values
        last_number = int(self.run.starting_step) - 1
        held = self._found.last_record(up_to=last_number)
        summary = self.summary()
        if summary.get("_step", last_number + 1) > last_number:  # it is sent ahead of its row
            return held
        return max(held, (int(summary.get(MARKER) or 0), int(summary.get(GLOBAL_STEP) or 0)))

    def _keep_summary(self) -> None:
        # `wandb sync` replaces the summary by the one in the file that it sends last.
        if summary := self._found.summary:
            self.run.summary.update(summary)

    def summary(self) -> dict[str, Any]:
        """Return the run's summary, the row that is not yet sent included; empty for a run that does nothing."""
        waiting = {} if self._row is None else {**self._row.values, **self._row.single}
        return {} if self.run.disabled else {**dict(self.run.summary), **waiting}

    def start_numbers(self) -> None:
        """Where the program counts W&B's steps, let it go on after those that are used."""
        if not self._counts_steps and not self.is_users and self._next_number > self.run.starting_step:
            self.run.log({}, step=self._next_number)

    # Points

    def add(self, records: Iterable[Record]) -> None:
        """Put records into rows, but for those that W&B has got."""
        for record in records:
            if record.sequence > self.held:
                self._add(record)
                self._unsafe.append(_Unsafe(record.sequence))
                self.held = record.sequence

    def _add(self, record: Record) -> None:
        values = {group_name(name): value for name, value in flat(record.values)}
        newest_step, newest = self._newest
        if record.step == newest_step:  # as after a resume: each point once
            values = {name: value for name, value in values.items() if not same(newest.get(name, _ABSENT), value)}
        if self._row is not None and not self._row.has_room_for(record.step, values):
            self.send()
        row = self._row = self._row or _Row(record.step)
        row.values.update(values)
        row.single.update({name: value for name, value in record.values.items() if name in SINGLE_VALUES})
        row.record, row.time, row.changed_at = record.sequence, record.time, time.monotonic()

    def send(self) -> None:
        """Send the row."""
        row = self._row
        if row is None:
            return
        if row.single:
            self.run.summary.update(row.single)
        values = {**row.values, GLOBAL_STEP: row.step, MARKER: row.record, "_timestamp": row.time}
        if self._counts_steps:
            number = max(row.step, self._next_number)
            self.run.log(values, step=number, commit=True)
            self._next_number = number + 1
        else:
            self.run.log(values)
        self._row = None

    # Artifacts

    def log_artifact(self, artifact: Any, aliases: Sequence[str], record: int, directory: Path | None = None) -> None:
        """Log an artifact; online, wait until the server has it.

        Arguments:
            artifact: The SDK's, with its files in it.
            aliases: Its aliases.
            record: The number of the record that it comes from.
            directory: Removed when the artifact is safe.
        """
        key = (str(artifact.name).partition(":")[0], str(artifact.digest))  # without a version
        if self.run.offline and key in self._found.artifacts | self._safe.artifacts:
            return
        logged = self.run.log_artifact(artifact, aliases=list(aliases))
        if self.run.offline:
            self._unsafe.append(_Unsafe(record, key, directory))
        else:
            if not self.run.disabled:
                logged.wait()
            _remove(directory)

    # What is safe

    def last_safe(self, sent: int) -> int:
        """Return the number of the newest record, all up to it being in the file; `sent` where nothing is under way."""
        if self._row is not None and time.monotonic() - self._row.changed_at > _PAUSE_SECONDS:
            self.send()
        if time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._look()
            self._raise_failure()
        return self._unsafe[0].record - 1 if self._unsafe else sent

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        if self.run.disabled:
            self._unsafe.clear()
        for message in self._file.read() if self._unsafe else ():
            self._safe.take(message)
        marker, _ = self._safe.last_record()
        while self._unsafe and self._is_safe(self._unsafe[0], marker):
            _remove(self._unsafe.popleft().directory)

    def _is_safe(self, thing: _Unsafe, marker: int) -> bool:
        return thing.record <= marker if thing.artifact is None else thing.artifact in self._safe.artifacts

    def _raise_failure(self) -> None:
        """Raise what made wandb-core give up on uploading: the SDK itself goes on as if nothing were."""
        if self._failure is None and not self.run.offline and (words := self._complaints.find()) is not None:
            self._failure = TrackerError(f"W&B's upload ended, and goes on in {self._file.path} alone: {words}")
        if self._failure is not None:
            raise self._failure

    # The end

    def end(self, status: Status) -> None:
        """Send what is left and end the run, but for the user's own.

        Raises:
            TrackerError: the server hasn't got everything, or the file can't hold it.
        """
        if self._failure is not None:
            raise self._failure
        self.send()
        if self.is_users:
            return
        if status is Status.PREEMPTED:
            self.run.mark_preempting()
        self.finish(0 if status.is_success else 1)
        self._raise_failure()
        until = time.monotonic() + _WRITE_SECONDS
        self._look()
        while self._unsafe and time.monotonic() < until:
            time.sleep(0.05)
            self._look()
        if self._unsafe:
            self._failure = TrackerError(f"{self._file.path} doesn't hold what was logged: is the disk full?")
            raise self._failure

    def finish(self, exit_code: int) -> None:
        """End the run.

        Raises:
            TrackerError: the server didn't take everything in time.
        """
        try:
            self.run.finish(exit_code=exit_code)
        except Exception as error:  # the SDK raises a dozen kinds
            tear_down()  # it would go on sending, beside the run's next opening
            self._failure = TrackerError(f"W&B's run did not end: {describe(error)}")
            raise self._failure from error
        begun_here.discard(self.run.id)

    def drop(self) -> None:
        """Let go of the run after a failure, so that it can be opened again in this process."""
        if self.is_users:
            return
        try:
            self.run.finish(exit_code=1)
        except Exception as error:
            logger.debug("W&B's run did not end: %s", describe(error))
        tear_down()
        begun_here.discard(self.run.id)


class _Complaints:
    """wandb-core's log, read onwards from where it was left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def find(self) -> str | None:
        """Return why the upload of points has ended, if it has."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text, end, _ = file.read().rpartition(b"\n")
        except OSError:
            return None
        self._offset += len(text) + len(end)
        match = _FATAL.search(text.decode(errors="replace"))
        return None if match is None else match.group(1)


def begin(arguments: Mapping[str, Any], directory: Path, run_id: str) -> Any:
    """Call `wandb.init`; leave nothing behind where it fails.

    Raises:
        TrackerError: it failed.
    """
    import wandb

    before = set(run_files(directory, run_id))
    end_leftovers(before)
    try:
        run = wandb.init(**arguments)
    except Exception as error:
        tear_down()  # else "run ID is in use" is what the next try gets
        for path in set(run_files(directory, run_id)) - before:
            shutil.rmtree(path.parent, ignore_errors=True)
        raise TrackerError(f"W&B's run can't be opened: {describe(error)}") from error
    begun_here.add(run.id)
    return run


def tear_down() -> None:
    """End wandb-core, so that the next `wandb.init` starts another."""
    import wandb

    try:
        wandb.teardown(exit_code=1)
    except Exception as error:  # it is dead already
        logger.debug("wandb-core: %s", describe(error))


_ABSENT = object()


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same point."""
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 -- NaN


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what can be logged, nested entries by names such as "eval_f1/cats"."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", entry) for inner, entry in flat(value))
        elif value is not None:
            yield name, value


def _remove(directory: Path | None) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
