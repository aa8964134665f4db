"""The command line as a process, and output directories of real trainings for it; see tests/report/conftest.py."""

from __future__ import annotations

import math

import pytest

from loopwright.journal.reader import SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status
from tests.report.conftest import killed, resumed, two_attempts, undelivered, whole

__all__ = ["killed", "resumed", "two_attempts", "undelivered", "whole"]

# What would colour a terminal through rich, retitle it, clear it, turn its direction, or end a script of a page.
NAMES = ("[red]bold[/red]", "\x1b]0;owned\x07", "\x1b[2Jgone", "over\u202eturned", "</script>", "new\nline", "=1+1")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A run whose every text was chosen by an enemy, and whose loss is not a number for a while."""
    directory = tmp_path_factory.mktemp("runs") / "hostile"
    recorder = Recorder(directory)
    arguments = {name: name for name in NAMES}
    run = Run(id="d" * 32, output_dir=str(directory), name=NAMES[0] + NAMES[2], created_at=1.0, arguments=arguments)
    recorder.begin_attempt(run, purpose="training", versions={NAMES[1]: NAMES[1]})
    recorder.add_sink(SinkEntry(run.id, NAMES[0] + NAMES[1], "nowhere:Nothing", {}, {}, "delivery", False))
    for step, loss in enumerate((1.0, math.nan, 0.5, math.inf, 0.25)):
        recorder.record(Kind.LOG, step, {"loss": loss, **{name: float(step) for name in NAMES}, "said": NAMES[1]})
    recorder.record(Kind.CHECKPOINT, 4, {"path": NAMES[0] + NAMES[4]})
    recorder.decide(Decision(4, NAMES[0], NAMES[1], NAMES[2], True))
    recorder.end_attempt(Status.FAILED, f"ValueError: {NAMES[0]} {NAMES[1]} {NAMES[3]}")
    recorder.close()
    return directory
