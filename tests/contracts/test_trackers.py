"""One contract over every tracker that is listed: a new one is covered by being listed.

Two are on only beside a service, Azure ML's and DagsHub's, and one only in a task, Flyte's: of these the contract shows
what can be said without training, and that they are no hindrance where they are off. The rest is shown by their own
tests and the fault matrix.

What takes a training is done for all of them at once, as `report_to="all"` does; each service is then asked for itself.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopwright import Trainer
from loopwright.delivery.store import DeliveryStore
from loopwright.delivery.worker import Worker
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.naming import group_name
from loopwright.trackers.registry import BUILT_IN, make_tracker, usable_trackers
from tests.trackers.places import Place, listed_places, place_of
from tests.trackers.trainings import Network, build, examples, journal_points

PATIENT = {"report_to": "all", "tracker_open_timeout": 90, "tracker_call_timeout": 90, "tracker_close_timeout": 120}

BUILT_IN_NAMES = [tracker.name for tracker in BUILT_IN]
NAMES = [*BUILT_IN_NAMES, "generic"]


class GenericPlace(Place):
    """A third party's service, which runs in this process."""

    name = "generic"

    def __init__(self, directory: Path, service) -> None:
        super().__init__(directory)
        self.service = service

    def num_runs(self, out: Path) -> int:
        return len(self.service.opened)

    def holds(self, out: Path) -> bool:
        with JournalReader(out) as reader:
            run = reader.runs()[-1].id
        return self.service.points[run] == journal_points(out, run)


@pytest.fixture
def everywhere(tmp_path, monkeypatch, generic, service):
    """Every tracker usable, each with a local place of its own; returns the places of those that are on."""
    listed = [place for place in listed_places(tmp_path) if not place.needs_service]
    places = [*listed, GenericPlace(tmp_path, service)]
    for place in places:
        for name, value in place.environment().items():
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return {place.name: place for place in places if place.home != "off"}


def finish(trainer: Trainer) -> None:
    trainer.reporting.close()


def test_all_is_every_one_that_is_installed(everywhere):
    assert sorted(NAMES) == usable_trackers()


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_to_list_load_and_construct_imports_no_sdk(name, tmp_path):
    program = f"""
import sys, json
from loopwright.trackers.registry import BUILT_IN, listed_trackers
from loopwright.trackers.placement import place
tracker = listed_trackers()[{name!r}].load()()
sdks = {{"torch"}} | {{listed.sdk.partition(".")[0] for listed in BUILT_IN}}
print(json.dumps([place(tracker).place, sorted(sdks & set(sys.modules))]))
"""
    place = place_of(name, tmp_path)
    try:
        finished = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **place.environment()},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    finally:
        place.close()
    assert json.loads(finished.stdout) == [place.home, []]


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_class_says_what_it_is(name):
    tracker = next(one for one in BUILT_IN if one.name == name).load()()
    assert isinstance(tracker, TrackerCallback)
    assert tracker.name == name
    variables = set(tracker.variables) - {"COMET_EXPERIMENT_KEY"}  # which is a name
    assert not any("KEY" in variable or "TOKEN" in variable or "PASSWORD" in variable for variable in variables)
    assert pickle.loads(pickle.dumps(tracker)).name == name


def test_train_save_evaluate_and_close_twice(everywhere, tmp_path):
    out = tmp_path / "out"
    trainer = build(out, **PATIENT, dataloader_num_workers=2)
    trainer.train()
    trainer.evaluate()
    finish(trainer)
    finish(trainer)
    for name, place in everywhere.items():
        assert place.num_runs(out) == 1, name
        assert place.holds(out), name


def test_evaluate_before_train_is_the_same_run_and_a_resume_goes_on_with_it(everywhere, tmp_path):
    out = tmp_path / "out"
    trainer = build(out, **PATIENT)
    trainer.evaluate()
    trainer.train()
    finish(trainer)
    again = build(out, **PATIENT)
    again.train(resume_from_checkpoint=True)
    again.evaluate()
    finish(again)
    assert again.run_id == trainer.run_id
    for name, place in everywhere.items():
        assert place.num_runs(out) == 1, name
        assert place.holds(out), name


def test_two_trainers_in_one_process_have_a_run_each(everywhere, tmp_path):
    outs = [tmp_path / "one", tmp_path / "two"]
    trainers = [build(out, run_name=out.name, **PATIENT) for out in outs]
    for trainer in trainers:
        trainer.train()
    for trainer in trainers:
        finish(trainer)
    for name, place in everywhere.items():
        assert [place.num_runs(out) for out in outs] == ([2, 2] if place.is_shared else [1, 1]), name


@pytest.mark.parametrize("name", NAMES)
def test_trials_of_a_search_are_runs_of_their_own(name, everywhere, tmp_path):
    if name not in everywhere or not everywhere[name].tells_runs_apart:
        pytest.skip("it is off here, or has no runs")
    out = tmp_path / "out"
    recorder = Recorder(out)
    store = None
    for number in range(2):
        run = Run(
            id=f"{number}" * 32,
            output_dir=str(out),
            name=f"trial-{number}",
            created_at=time.time(),
            arguments={"learning_rate": 0.1},
            parameters={"learning_rate": 0.1 * number},
            trial_name=f"trial-{number}",
            trial_parameters={"learning_rate": 0.1 * number},
        )
        recorder.begin_attempt(run, purpose="training")
        recorder.record(Kind.LOG, 1, {"loss": 1.0 * number})
        recorder.end_attempt(Status.COMPLETED)
        path = next((one.class_path for one in BUILT_IN if one.name == name), "generic_tracker:GenericCallback")
        entry = SinkEntry(run.id, name, path, {}, {}, "delivery", False)
        store = store or DeliveryStore(out)
        with JournalReader(out) as reader:
            worker = Worker(
                run, name, lambda entry=entry: make_tracker(entry), reader=reader, store=store,
                status=lambda: Status.COMPLETED,
            )  # fmt: skip
            worker.start()
            assert worker.join(60), worker.error
            assert worker.pending() == 0
    recorder.close()
    assert everywhere[name].num_runs(out) >= 2


class SecondProcess(Trainer):
    def is_world_process_zero(self):
        return False


def test_other_processes_than_the_first_stay_silent(everywhere, tmp_path):
    plain = build(tmp_path / "out", report_to="all")
    trainer = SecondProcess(Network(), plain.args, train_dataset=examples(), eval_dataset=examples(4))
    trainer.train()
    trainer.evaluate()
    finish(trainer)
    assert not list((tmp_path / "out").glob("journal*"))
    assert everywhere["generic"].service.opened == {}


def test_trainer_is_pickled_with_its_trackers_and_the_copy_trains(everywhere, tmp_path):
    trainer = build(tmp_path / "out", report_to="generic")
    trainer.train()
    copy = pickle.loads(pickle.dumps(trainer))
    finish(trainer)
    copy.args.output_dir = str(tmp_path / "copy")
    copy.train()
    finish(copy)
    assert everywhere["generic"].service.points[copy.run_id] == journal_points(tmp_path / "copy")
    assert copy.run_id != trainer.run_id


def test_name_of_a_metric_is_in_its_split():
    assert [group_name(name) for name in ("loss", "eval_loss", "test_f1", "eval_cats_loss")] == [
        "train/loss",
        "eval/loss",
        "test/f1",
        "eval/cats_loss",
    ]
