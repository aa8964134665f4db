"""What a run remembers: one entry of its journal, the run as trackers see it, and who decided what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """What an entry of the journal holds."""

    LOG = "log"  # a log line, an evaluation's among them
    PREDICTION = "prediction"  # the metrics of a prediction
    DECISION = "decision"  # who set which control flag
    CHECKPOINT = "checkpoint"  # a checkpoint that is on the disk
    ARTIFACT = "artifact"  # files for trackers to take
    COSTS = "costs"  # where an attempt's time went so far, and what each callback took; the attempt's newest counts
    REWIND = "rewind"  # what was recorded from this step on no longer counts


class Status(StrEnum):
    """How an attempt ended; `RUNNING` until it does."""

    RUNNING = "running"
    COMPLETED = "completed"  # all steps done
    STOPPED = "stopped"  # early, by a callback
    INTERRUPTED = "interrupted"  # Ctrl-C, or the program left in the middle
    PREEMPTED = "preempted"  # a signal that asks to leave
    FAILED = "failed"  # an exception
    KILLED = "killed"  # found open by the next start

    @property
    def is_success(self) -> bool:
        """Whether the training ended as it was meant to."""
        return self in {Status.COMPLETED, Status.STOPPED}


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the journal.

    Attributes:
        sequence: Its number in the journal; grows by one with each entry.
        attempt: Number of the attempt that wrote it.
        kind: What it holds.
        step: Optimizer updates done when it was made.
        time: When it was made, in seconds since 1970. An entry that a resumed run repeats keeps its first time.
        values: What was recorded, by name.
        tracker: The one tracker it is for; None for all.
    """

    sequence: int
    attempt: int
    kind: Kind
    step: int
    time: float
    values: dict[str, Any]
    tracker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as a tracker has to show it.

    Attributes:
        id: The run's own, 32 hexadecimal digits; the same in all of its attempts.
        output_dir: Where it writes, absolute.
        name: `run_name` of the arguments.
        project: `project` of the arguments.
        created_at: When it began, in seconds since 1970.
        arguments: The arguments by name, without secrets.
        parameters: What to show as the run's parameters: the model's configuration, then the arguments.
        parent_id: The run that this one branched off: resumed from an older checkpoint, or with other arguments. Of a
            trial, the search.
        parent_step: The step at which it did; None for a trial.
        trial_name: Name of the trial of a hyper-parameter search, else None.
        trial_parameters: The trial's hyper-parameters.
    """

    id: str
    output_dir: str
    name: str | None = None
    project: str | None = None
    created_at: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    parent_id: str | None = None
    parent_step: int | None = None
    trial_name: str | None = None
    trial_parameters: dict[str, Any] | None = None

    @property
    def short_id(self) -> str:
        """The first eight digits of the id, for names."""
        return self.id[:8]

    @property
    def search_id(self) -> str | None:
        """The id of the search that this run is a trial of; None for other runs, and trials that no search began."""
        return self.parent_id if self.trial_name is not None and self.parent_step is None else None

    @property
    def search_name(self) -> str | None:
        """What a trial's search is called: `run_name`, else its directory's name; None unless this is a trial."""
        if self.trial_name is None:
            return None
        directory = Path(self.output_dir)
        return self.name or (directory.name if self.search_id is None else directory.parent.name)


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of a hyper-parameter search, as its training knows it.

    Attributes:
        name: What it is called.
        parameters: Its hyper-parameters.
        search_id: The id of the search; None where `train(trial=...)` was called by hand.
    """

    name: str | None
    parameters: dict[str, Any]
    search_id: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of a control flag by one callback.

    Attributes:
        step: Optimizer updates done when it was taken.
        callback: Class name of the callback.
        event: The event it answered, such as "on_evaluate".
        flag: The flag, such as "should_training_stop".
        value: What the flag was set to.
    """

    step: int
    callback: str
    event: str
    flag: str
    value: bool

    @property
    def stops_training(self) -> bool:
        """Whether it was to stop training."""
        return self.flag == "should_training_stop" and self.value

    def __str__(self) -> str:
        verb = "set" if self.value else "cleared"
        return f"step {self.step}: {self.callback} {verb} {self.flag} in {self.event}"
