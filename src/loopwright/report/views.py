"""What is known of one run, as values: nothing here opens a file.

    RunView ──┬─ attempts        AttemptView: one process's part, and how it ended
              ├─ series          Series by name: what was logged as a number
              ├─ decisions       who set which control flag
              ├─ checkpoints     CheckpointView: on the disk, damaged, or deleted since
              ├─ trackers        TrackerView: how far each service is
              └─ costs           Costs: where the time went

All of it comes from files that somebody may have changed: names and texts are to be escaped where they are shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.journal.reader import Attempt
from loopwright.records import Decision, Record, Run, Status


@dataclass(frozen=True, slots=True)
class Series:
    """A number that was logged again and again.

    Attributes:
        name: Its name in the log lines.
        steps: Optimizer updates done, one for each value; never falling unless a run logged so.
        values: As they were logged: NaN and the infinities are kept.
        times: When, in seconds since 1970.
        attempts: Numbers of the attempts that logged them.
    """

    name: str
    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    times: tuple[float, ...] = ()
    attempts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def last(self) -> float | None:
        """The newest value; None where there is none."""
        return self.values[-1] if self.values else None

    @property
    def num_nonfinite(self) -> int:
        """How many values are NaN or infinite."""
        return sum(not math.isfinite(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt, and how it ended as far as anybody can tell.

    Attributes:
        attempt: As the journal has it.
        status: As the journal has it; `KILLED` where that says `RUNNING` and no process writes the journal.
        until: Its end, in seconds since 1970: of a killed one its last sign of life, of one at work now.
        last_step: The highest step that it recorded something at; its first one where it recorded nothing.
        num_records: How many records it made, also such as count no longer.
    """

    attempt: Attempt
    status: Status
    until: float
    last_step: int
    num_records: int

    @property
    def number(self) -> int:
        """Counted over all runs of the journal."""
        return self.attempt.number

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return max(self.until - self.attempt.started_at, 0.0)


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A checkpoint that a run wrote.

    Attributes:
        path: Where it is, or was.
        step: Optimizer updates done.
        state: "whole" (every byte was read), "sizes match" (the files were not read), "unverified" (there is no
            manifest), "damaged", or "deleted": it was recorded and is gone, as rotation lets go of old ones.
        damage: What is wrong, one line for each file.
        size: Bytes of all files; 0 where it is gone.
        time: When it was written, in seconds since 1970; None where nobody knows.
        attempt: Number of the attempt that recorded it; None where it is on the disk and in no record.
        is_pinned: Whether somebody pinned it.
    """

    path: Path
    step: int | None
    state: str
    damage: tuple[str, ...] = ()
    size: int = 0
    time: float | None = None
    attempt: int | None = None
    is_pinned: bool = False

    @property
    def exists(self) -> bool:
        """Whether it is on the disk."""
        return self.state != "deleted"


@dataclass(frozen=True, slots=True)
class TrackerView:
    """How far a tracker is with the run.

    Attributes:
        name: The tracker's name in this run.
        place: "delivery" for a process of its own, "training" for the training's.
        undelivered: How many of the journal's records it lacks.
        error: What stands in the way, in words; None where nothing does.
        failed_at: Since when, in seconds since 1970.
        refused: How many records the service will never take.
    """

    name: str
    place: str
    undelivered: int
    error: str | None
    failed_at: float | None
    refused: int


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of the metric that the run watched.

    Attributes:
        name: The metric's name in the log lines.
        value: Finite.
        step: Optimizer updates done when it was measured, the first time.
        is_highest: Whether higher is better.
    """

    name: str
    value: float
    step: int
    is_highest: bool


@dataclass(frozen=True, slots=True)
class CallbackCost:
    """What a callback took at one event.

    Attributes:
        callback: Class name, numbered where there are several of a class.
        event: Such as "on_log".
        calls: How often it was called.
        seconds: How long that took in all.
    """

    callback: str
    event: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Where the time of the process that trains went, by its clock, added up over the attempts.

    Attributes:
        parts: Seconds by part: "data", "forward_backward", "optimizer", "callbacks", "logging", "evaluation", "saving";
            parts that were not measured are missing.
        total: Seconds of all attempts that recorded them, from the first batch asked for.
        callbacks: By callback and event, the dearest first.
    """

    parts: dict[str, float]
    total: float
    callbacks: tuple[CallbackCost, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """An argument that is not what `TrainingArguments` has by default.

    Attributes:
        name: The argument.
        value: What it is in the run.
        default: What it would be; None where `TrainingArguments` has no such argument.
        is_known: Whether it has.
    """

    name: str
    value: Any
    default: Any
    is_known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """All that is known of one run.

    Attributes:
        directory: The output directory it was read from, as it was given.
        run: The run, with the arguments of its newest attempt.
        attempts: The oldest first.
        is_alive: Whether a process writes the journal of this run; None where that can't be told from here.
        lines: The log lines that count, in their order.
        predictions: The metrics of predictions.
        series: By name, in the order of their first values.
        decisions: Who set which control flag, each with the time of its record.
        checkpoints: Lowest step first.
        trackers: By name.
        differences: The arguments that are not the defaults, by name.
        versions: Python's and the packages' versions of the newest attempt.
        best: The best value of `metric_for_best_model`, else of the evaluations' loss; None where nothing was measured.
        costs: None where the run recorded none.
    """

    directory: Path
    run: Run
    attempts: tuple[AttemptView, ...]
    is_alive: bool | None
    lines: tuple[Record, ...]
    predictions: tuple[Record, ...]
    series: dict[str, Series]
    decisions: tuple[tuple[Decision, Record], ...]
    checkpoints: tuple[CheckpointView, ...]
    trackers: tuple[TrackerView, ...]
    differences: tuple[Difference, ...]
    versions: dict[str, str] = field(default_factory=dict)
    best: Best | None = None
    costs: Costs | None = None

    @property
    def title(self) -> str:
        """What to call it: its name, else its directory's, and the short id."""
        return f"{self.run.name or Path(self.run.output_dir).name} · {self.run.short_id}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the newest attempt, without secrets."""
        return self.run.arguments

    @property
    def status(self) -> Status:
        """How its newest training ended; that of its newest attempt where it never trained."""
        trainings = [one for one in self.attempts if one.attempt.purpose != "evaluation"] or list(self.attempts)
        return trainings[-1].status if trainings else Status.KILLED

    @property
    def last_step(self) -> int:
        """The highest step of a log line or an attempt's beginning."""
        reached = [line.step for line in self.lines] + [one.attempt.first_step for one in self.attempts]
        return max(reached, default=0)

    @property
    def seconds(self) -> float:
        """How long its attempts lasted together, without what lay between them."""
        return sum(one.seconds for one in self.attempts)

    @property
    def last_metrics(self) -> dict[str, float]:
        """The newest value of each series."""
        return {name: one.values[-1] for name, one in self.series.items() if one.values}

    @property
    def undelivered(self) -> int:
        """How many records its trackers lack, all together."""
        return sum(tracker.undelivered for tracker in self.trackers)
