"""A journal for trackers that are attached to another library's Trainer, such as transformers'.

The trackers of one Trainer share it. Whoever is called first at an event records it for all.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.errors import JournalError
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loopwright.trackers.base import TrackerCallback
    from loopwright.trackers.reporting import Reporting

_by_directory: dict[Path, StandaloneReporting] = {}


def standalone_reporting(args: Any) -> StandaloneReporting:
    """Return the journal in `args.output_dir`, made where there is none."""
    directory = Path(args.output_dir).resolve()
    return _by_directory.setdefault(directory, StandaloneReporting())


class StandaloneReporting:
    """What `Reporting` needs of its owner, gathered from what callbacks are told; and each event, once."""

    def __init__(self) -> None:
        self.args: Any = None
        self.state: Any = None
        self.model: Any = None
        self.run_id: str = uuid.uuid4().hex
        self.is_in_train: bool = False
        self.callback_handler = self
        self.callbacks: list[TrackerCallback] = []
        self._reporting: Reporting | None = None
        self._lines = -1
        self._resumed_at: dict[str, Any] | None = None

    def begin(self, tracker: TrackerCallback, args: Any, state: Any, model: Any) -> None:
        """Take `tracker` in; the journal is begun at the first log line, when all have been taken in."""
        if not self.is_in_train:  # the first tracker of a new training
            self.callbacks = []
            self._begin_run(args, state, model)
        self.is_in_train = True
        self.args, self.state, self.model = args, state, model
        if all(held is not tracker for held in self.callbacks):
            self.callbacks.append(tracker)

    def _begin_run(self, args: Any, state: Any, model: Any) -> None:
        self.args, self.state, self.model = args, state, model
        self._lines = len(state.log_history)
        if self._reporting is not None:
            self._reporting.close()
            self._reporting = None
        self._resumed_at = None
        if state.global_step == 0 or not self._continue_last_run():
            self.run_id = uuid.uuid4().hex

    def _continue_last_run(self) -> bool:
        """Go on with the journal's last run, at the present step; the other library's checkpoint doesn't know it."""
        try:
            with JournalReader(self.args.output_dir) as reader:
                run = reader.runs()[-1]
                steps = reader.records(run.id)
        except (JournalError, IndexError):
            return False
        self.run_id = run.id
        before = [record.sequence for record in steps if record.step <= self.state.global_step]
        self._resumed_at = {"position": max(before, default=0), "awaited": []}
        return True

    def log(self, tracker: TrackerCallback, args: Any, state: Any, model: Any, logs: Mapping[str, Any]) -> None:
        """Record a log line, the first time that it is shown."""
        reporting = self._ready(tracker, args, state, model)
        if tracker.takes_own_records:
            reporting.record_for(tracker, state, logs)
        elif self._lines != len(state.log_history):
            self._lines = len(state.log_history)
            reporting.log(logs)

    def checkpoint(self, tracker: TrackerCallback, args: Any, state: Any, model: Any) -> None:
        """Record the checkpoint of this step."""
        reporting = self._ready(tracker, args, state, model)
        if tracker is self.callbacks[0]:
            reporting.note_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def prediction(
        self, tracker: TrackerCallback, args: Any, state: Any, model: Any, metrics: Mapping[str, Any]
    ) -> None:
        """Record a prediction's metrics."""
        reporting = self._ready(tracker, args, state, model)
        if tracker is self.callbacks[0]:
            reporting.log(metrics, kind=Kind.PREDICTION)

    def end(self, state: Any) -> None:
        """End the run."""
        if self._reporting is not None and self.is_in_train:
            self.is_in_train = False
            is_whole = state.global_step >= state.max_steps
            self._reporting.end(Status.COMPLETED if is_whole else Status.STOPPED)

    def _ready(self, tracker: TrackerCallback, args: Any, state: Any, model: Any) -> Reporting:
        from loopwright.trackers.reporting import Reporting  # which knows the trackers' base, which knows this

        if not self.callbacks:
            self.begin(tracker, args, state, model)
            self.is_in_train = False
        self.args, self.state, self.model = args, state, model
        if self._reporting is None:
            self._reporting = Reporting(self)
            self._reporting.begin(
                "training" if self.is_in_train else "evaluation",
                first_step=state.global_step,
                resumed_at=self._resumed_at,
            )
            for held in self.callbacks:
                held._reporting = None  # it goes on asking here
        return self._reporting
