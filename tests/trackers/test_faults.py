"""Whatever a tracker does, at whatever moment, wherever it lives: the training is the same, and nothing is lost.

Pairwise: what goes wrong x where it goes wrong, for the generic tracker, in both places. In each case the weights of
a model with dropout equal those of a training without trackers bit for bit, the training ends and returns, and once
the service is well again `loopwright sync` makes its content equal to the journal: nothing missing, nothing double.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from tests.trackers.trainings import (
    build,
    deliver_what_is_left,
    journal_points,
    same_weights,
    tracker_at,
    weights,
)

CLIENT_FAULTS = ("raise", "exit", "interrupt", "hang", "random")
SERVICE_FAULTS = ("hang", "500", "refuse")
PLACES = ("open", "deliver", "artifact", "close")
HOMES = ("delivery", "training")
MODULES = Path(__file__).parent / "generic"


@pytest.fixture
def fault_file(tmp_path, monkeypatch):
    path = tmp_path / "fault"
    monkeypatch.setenv("GENERIC_FAULT_FILE", str(path))
    monkeypatch.setenv("GENERIC_ARTIFACTS", "yes")
    return path


def assert_complete(service, directory, trainer):
    run = trainer.run_id
    assert service.points[run] == journal_points(directory, run)
    assert service.conflicts == []
    assert set(service.artifacts[run]) == {"checkpoint-5", "checkpoint-10", "checkpoint-12"}
    assert service.statuses[run][-1] == "completed"


def train_and_compare(trainer, without_trackers):
    began = time.monotonic()
    trainer.train()
    took = time.monotonic() - began
    assert same_weights(weights(trainer), without_trackers)
    # Opening may be waited for (10 s), and so may the end (10 s); the steps themselves never are.
    assert took < 25
    with JournalReader(trainer.args.output_dir) as reader:
        assert reader.attempts(trainer.run_id)[-1].status is Status.COMPLETED


def train_with_tracker(out, tracker, without_trackers):
    trainer = build(out, callbacks=[tracker], tracker_close_timeout=4, tracker_open_timeout=3)
    train_and_compare(trainer, without_trackers)
    trainer.reporting.close()
    return trainer


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", CLIENT_FAULTS)
def test_sdk_that_fails_changes_nothing(
    fault, place, home, tmp_path, generic, service, fault_file, without_trackers, monkeypatch
):
    fault_file.write_text(f"{fault}@{place}")
    out = tmp_path / "out"
    trainer = train_with_tracker(out, tracker_at(home, generic.GenericCallback), without_trackers)
    fault_file.unlink()
    deliver_what_is_left(out, "--call-timeout", "20", modules=MODULES)
    assert_complete(service, out, trainer)


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", SERVICE_FAULTS)
def test_service_that_fails_changes_nothing(
    fault, place, home, tmp_path, generic, service, fault_file, without_trackers
):
    if fault == "refuse":
        if place != "open":
            pytest.skip("a service that is gone is gone for all")
        service.go_away()
    else:
        service.fault, service.fault_path = fault, place
    out = tmp_path / "out"
    trainer = train_with_tracker(out, tracker_at(home, generic.GenericCallback), without_trackers)
    service.come_back()
    deliver_what_is_left(out, "--call-timeout", "20", modules=MODULES)
    assert_complete(service, out, trainer)


@pytest.mark.parametrize("home", HOMES)
def test_service_that_dies_and_comes_back_is_caught_up_with(
    home, tmp_path, generic, service, fault_file, without_trackers
):
    out = tmp_path / "out"
    tracker = tracker_at(home, generic.GenericCallback)

    class Outage(generic.TrackerCallback.__mro__[1]):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                service.go_away()
            if state.global_step == 9:
                service.come_back()
            time.sleep(0.2)

    trainer = build(out, callbacks=[tracker, Outage()], tracker_close_timeout=20)
    train_and_compare(trainer, without_trackers)
    trainer.reporting.close()
    assert_complete(service, out, trainer)


def test_delivery_process_that_dies_is_started_again(tmp_path, generic, service, fault_file, without_trackers):
    fault_file.write_text("die@deliver")
    out = tmp_path / "out"

    class Heal(generic.TrackerCallback.__mro__[1]):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(0.3)
            if state.global_step == 8:
                fault_file.unlink()

    trainer = build(out, callbacks=[generic.GenericCallback(), Heal()], tracker_close_timeout=20)
    train_and_compare(trainer, without_trackers)
    trainer.reporting.close()
    assert_complete(service, out, trainer)


PROGRAM = """
import sys, time
sys.path.insert(0, {generic!r})
import generic_tracker
from tests.trackers.trainings import build
class Here(generic_tracker.GenericCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        self.seen = True
if __name__ == "__main__":
    tracker = Here() if {home!r} == "training" else generic_tracker.GenericCallback()
    trainer = build({out!r}, callbacks=[tracker], tracker_close_timeout=3, tracker_open_timeout=3)
    trainer.train()
    {ending}
"""


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    ("ending", "status"),
    [("pass", 0), ("raise ValueError('mine')", 1), ("sys.exit(3)", 3)],
    ids=["end", "raise", "exit"],
)
@pytest.mark.parametrize("fault", ["hang@open", "hang@deliver", "exit@deliver", "hang@close"])
def test_program_ends_with_its_own_status(fault, home, ending, status, tmp_path, service, fault_file):
    if fault != "hang@deliver" and ending != "sys.exit(3)":
        pytest.skip("pairwise")
    fault_file.write_text(fault)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(generic=str(MODULES), home=home, out=str(tmp_path / "out"), ending=ending))
    root = Path(__file__).parents[2]
    began = time.monotonic()
    finished = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert finished.returncode == status, finished.stderr
    assert time.monotonic() - began < 90, "an hour, where the hanging call is waited for"
    assert "loopwright sync" in finished.stderr, "what is left is named with the command that delivers it"


def test_global_random_states_are_those_of_a_training_without_trackers(tmp_path, generic, service, fault_file):
    import random

    fault_file.write_text("random@open")
    trainer = build(tmp_path / "out", callbacks=[tracker_at("training", generic.GenericCallback)])
    random.seed(5)
    torch.manual_seed(5)
    trainer.train()
    with_tracker = (random.random(), torch.rand(1).item())
    trainer.reporting.close()
    plain = build(tmp_path / "plain")
    random.seed(5)
    torch.manual_seed(5)
    plain.train()
    assert (random.random(), torch.rand(1).item()) == with_tracker
