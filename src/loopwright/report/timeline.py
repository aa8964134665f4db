"""Tell what happened in a run, in order: attempts, evaluations, saves, decisions, crashes; and where on a line it lies.

The line is the time that attempts took. What lay between a crash and the next start is left out: it may be days.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loopwright.records import Status
from loopwright.report.formats import number_text
from loopwright.report.views import AttemptView, RunView

_MAX_TICKS = 200
_LANES = (("evaluation", "Evaluations"), ("save", "Saves"), ("decision", "Decisions"))


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened.

    Attributes:
        kind: "begin", "end", "evaluation", "save" or "decision".
        time: In seconds since 1970.
        step: Optimizer updates done.
        text: In words.
        place: Where on the line, from 0 to 100.
    """

    kind: str
    time: float
    step: int
    text: str
    place: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """An attempt on the line: where it begins and how long it is, of 100."""

    view: AttemptView
    begin: float
    length: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened in a run.

    Attributes:
        stretches: The attempts.
        lanes: Name and happenings of each kind, thinned out where they would lie upon each other.
        happenings: All of them, in order.
    """

    stretches: list[Stretch]
    lanes: list[tuple[str, str, list[Happening]]]
    happenings: list[Happening]


def build_timeline(view: RunView) -> Timeline:
    """Return what happened in the run."""
    line = _Line(view.attempts)
    happenings = sorted(
        [*_beginnings_and_ends(view, line), *_evaluations(view, line), *_saves(view, line), *_decisions(view, line)],
        key=lambda one: (one.place, one.time),
    )
    lanes = [(kind, title, _thin(one for one in happenings if one.kind == kind)) for kind, title in _LANES]
    return Timeline(line.stretches, [lane for lane in lanes if lane[2]], happenings)


class _Line:
    """Places times on a line of length 100."""

    def __init__(self, attempts: Iterable[AttemptView]) -> None:
        attempts = list(attempts)
        total = sum(one.seconds for one in attempts)
        # One that was killed at once is to be seen as well.
        shares = [max(one.seconds / total if total else 1.0, 0.01) for one in attempts]
        scale, begin = 100 / (sum(shares) or 1.0), 0.0
        self.stretches: list[Stretch] = []
        for one, share in zip(attempts, shares, strict=True):
            self.stretches.append(Stretch(one, begin, share * scale))
            begin += share * scale

    def place(self, attempt: int | None, time: float) -> float:
        for stretch in self.stretches:
            one = stretch.view
            if one.number == attempt:
                passed = (time - one.attempt.started_at) / one.seconds if one.seconds else 0.0
                return stretch.begin + stretch.length * min(max(passed, 0.0), 1.0)
        return 0.0


def _beginnings_and_ends(view: RunView, line: _Line) -> Iterable[Happening]:
    for stretch in line.stretches:
        one = stretch.view
        first = one.attempt.first_step
        verb = "began" if first == 0 else f"went on from step {first}"
        yield Happening("begin", one.attempt.started_at, first, f"attempt {one.number} {verb}", stretch.begin)
        if one.status is Status.RUNNING:
            continue
        reason = f": {one.attempt.reason}" if one.attempt.reason else ""
        text = f"attempt {one.number} {_verb(one.status)}{reason}"
        yield Happening("end", one.until, one.last_step, text, stretch.begin + stretch.length)


def _verb(status: Status) -> str:
    return {
        Status.COMPLETED: "was completed",
        Status.STOPPED: "was stopped",
        Status.INTERRUPTED: "was interrupted",
        Status.PREEMPTED: "was asked to leave",
        Status.FAILED: "failed",
        Status.KILLED: "crashed or was killed",
    }.get(status, str(status))


def _evaluations(view: RunView, line: _Line) -> Iterable[Happening]:
    for record in view.lines:
        measured = {name: value for name, value in record.values.items() if name.startswith("eval_")}
        if measured:
            shown = [
                f"{name} {number_text(value)}"
                for name, value in measured.items()
                if isinstance(value, int | float) and not name.endswith(("_runtime", "_per_second"))
            ]
            text = "evaluation" + (f": {', '.join(shown[:4])}" if shown else "")
            yield Happening("evaluation", record.time, record.step, text, line.place(record.attempt, record.time))


def _saves(view: RunView, line: _Line) -> Iterable[Happening]:
    for one in view.checkpoints:
        if one.time is not None and one.attempt is not None:
            state = "" if one.state in ("whole", "sizes match") else f" ({one.state})"
            yield Happening(
                "save", one.time, one.step or 0, f"{one.path.name}{state}", line.place(one.attempt, one.time)
            )


def _decisions(view: RunView, line: _Line) -> Iterable[Happening]:
    for decision, record in view.decisions:
        verb = "set" if decision.value else "cleared"
        text = f"{decision.callback} {verb} {decision.flag} in {decision.event}"
        yield Happening("decision", record.time, record.step, text, line.place(record.attempt, record.time))


def _thin(happenings: Iterable[Happening]) -> list[Happening]:
    """Return at most `_MAX_TICKS`, of which no two lie upon each other."""
    kept: dict[int, Happening] = {}
    for one in happenings:
        kept[round(one.place / 100 * _MAX_TICKS)] = one
    return list(kept.values())
