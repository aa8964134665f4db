"""SIGTERM and SIGUSR1 at any instant: a checkpoint, the right exit status, and an exact resume."""

from __future__ import annotations

import random
import signal

import pytest

from loopwright.checkpoint import list_checkpoints, newest_whole
from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from tests.crash.scenes import SLOW_SCENES, differences
from tests.crash.test_exact_resume import whole_run

SCENES = [
    *SLOW_SCENES,
    *("map-style", "map-style, 2 persistent workers", "iterable", "hugging face, 2 workers", "accumulation, epochs"),
    *("stateful loader, 2 workers", "early stopping", "fp16", "beside training"),
]
SIGNALS = 4  # of each scene: 56 in all


@pytest.mark.parametrize("scene", SCENES)
def test_signalled_trainings_save_leave_and_go_on_exactly(scene, forker, tmp_path):
    instants = random.Random(f"signals {scene}")
    whole, seconds = whole_run(forker, scene, tmp_path / "whole")
    number = signal.SIGTERM if instants.random() < 0.7 else signal.SIGUSR1
    signalled = 0
    for run in range(4 * SIGNALS):
        place = tmp_path / f"run-{run}"
        for _ in range(2):
            after = instants.uniform(0.1, seconds)
            status, _ = forker.train(scene, place, signal=number, after=after)
            assert status in (0, 128 + number, -number), forker.log(place)
            if forker.is_over(place):
                break
            if status == 128 + number:
                signalled += 1
                check_what_it_left(place, number)
        else:
            status, _ = forker.train(scene, place)
            assert status == 0, forker.log(place)
        if status != -number:  # before training began, or between its end and leaving its outcome
            assert differences(whole, forker.outcome(place)) == [], forker.log(place)
        if signalled >= SIGNALS:
            return
    raise AssertionError(f"only {signalled} signals arrived within trainings")


def check_what_it_left(place, number):
    """Nothing half-written, nothing damaged; the journal says why the training ended."""
    left = [path.name for path in place.iterdir() if path.name.startswith(".checkpoint")]
    assert left == []
    _, damaged = newest_whole(place)
    assert damaged == []
    with JournalReader(place) as reader:
        attempt = reader.attempts(reader.runs()[-1].id)[-1]
    assert attempt.status is Status.PREEMPTED
    assert attempt.reason.startswith(signal.Signals(number).name)
    assert list_checkpoints(place) or attempt.reason == f"{signal.Signals(number).name} at step 0"
