"""One contract over every tracker that is listed: a new one is covered by being listed.

What takes a training is done for all of them at once, as `report_to="all"` does; each service is then asked for itself.
"""

from __future__ import annotations

import json
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
from tests.trackers import readback
from tests.trackers.mlflow_service import Databases
from tests.trackers.trainings import Network, build, examples, journal_points

BUILT_IN_NAMES = [tracker.name for tracker in BUILT_IN]
NAMES = [*BUILT_IN_NAMES, "generic"]


@pytest.fixture(scope="session")
def databases(tmp_path_factory):
    return Databases(tmp_path_factory.mktemp("databases"))


@pytest.fixture
def everywhere(tmp_path, monkeypatch, generic, service, databases):
    """Every tracker usable, each with a local place of its own; returns what reads them back."""
    places = Places(tmp_path, service)
    for name, value in places.environment(databases).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return places


class Places:
    """Where the services of one test keep what they are sent."""

    def __init__(self, directory: Path, service) -> None:
        self.directory = directory
        self.service = service

    def environment(self, databases: Databases) -> dict[str, str]:
        (self.directory / "wandb").mkdir()
        wandb = {f"WANDB_{name}DIR": str(self.directory / "wandb") for name in ("", "CACHE_", "DATA_", "CONFIG_")}
        return {
            **wandb,
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "MLFLOW_TRACKING_URI": databases.copy(self.directory / "mlflow.db"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def num_runs(self, name: str, out: Path) -> int:
        if name == "generic":
            return len(self.service.opened)
        if name == "tensorboard":
            return len([path for path in (out / "runs").rglob("*") if path.is_dir()])
        if name == "mlflow":
            from mlflow import MlflowClient

            client = MlflowClient()
            return sum(len(client.search_runs([one.experiment_id])) for one in client.search_experiments())
        return len({path.name.split("-")[-1] for path in (self.directory / "wandb").rglob("*.wandb")})

    def holds(self, name: str, out: Path) -> bool:
        """Return whether the service holds what counts in the journal of `out`, no more and no less."""
        expected = readback.journal(out)
        if name == "generic":
            with JournalReader(out) as reader:
                run = reader.runs()[-1].id
            return self.service.points[run] == journal_points(out, run)
        if name == "tensorboard":
            return readback.tensorboard(out / "runs") == readback.as_float32(expected)
        if name == "mlflow":
            return readback.mlflow(f"sqlite:///{self.directory}/mlflow.db") == readback.journal_by_millisecond(out)
        return readback.wandb(self.directory / "wandb") == readback.last_of_each(out)


def finish(trainer: Trainer) -> None:
    trainer.reporting.close()


def test_all_is_every_one_that_is_installed(everywhere):
    assert sorted(NAMES) == usable_trackers()


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_to_list_load_and_construct_imports_no_sdk(name):
    program = f"""
import sys, json
from loopwright.trackers.registry import listed_trackers
from loopwright.trackers.placement import place
tracker = listed_trackers()[{name!r}].load()()
print(json.dumps([place(tracker).place, sorted({{"torch", "wandb", "mlflow", "tensorboard"}} & set(sys.modules))]))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(finished.stdout) == ["delivery", []]


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_class_says_what_it_is(name):
    tracker = next(one for one in BUILT_IN if one.name == name).load()()
    assert isinstance(tracker, TrackerCallback)
    assert tracker.name == name
    assert tracker.variables
    assert not any("KEY" in variable or "TOKEN" in variable or "PASSWORD" in variable for variable in tracker.variables)
    assert pickle.loads(pickle.dumps(tracker)).name == name


def test_train_save_evaluate_and_close_twice(everywhere, tmp_path):
    out = tmp_path / "out"
    trainer = build(out, report_to="all", tracker_call_timeout=60, tracker_close_timeout=90, dataloader_num_workers=2)
    trainer.train()
    trainer.evaluate()
    finish(trainer)
    finish(trainer)
    for name in NAMES:
        assert everywhere.num_runs(name, out) == 1, name
        assert everywhere.holds(name, out), name


def test_evaluate_before_train_is_the_same_run_and_a_resume_goes_on_with_it(everywhere, tmp_path):
    out = tmp_path / "out"
    options = {"report_to": "all", "tracker_call_timeout": 60, "tracker_close_timeout": 90}
    trainer = build(out, **options)
    trainer.evaluate()
    trainer.train()
    finish(trainer)
    again = build(out, **options)
    again.train(resume_from_checkpoint=True)
    again.evaluate()
    finish(again)
    assert again.run_id == trainer.run_id
    for name in NAMES:
        assert everywhere.num_runs(name, out) == 1, name
        assert everywhere.holds(name, out), name


def test_two_trainers_in_one_process_have_a_run_each(everywhere, tmp_path):
    first, second = (
        build(tmp_path / name, report_to="all", tracker_call_timeout=60, tracker_close_timeout=90, run_name=name)
        for name in ("one", "two")
    )
    first.train()
    second.train()
    finish(first)
    finish(second)
    for name in NAMES:
        if name == "tensorboard":
            assert everywhere.num_runs(name, tmp_path / "one") == everywhere.num_runs(name, tmp_path / "two") == 1
        else:
            assert everywhere.num_runs(name, tmp_path) == 2, name


@pytest.mark.parametrize("name", NAMES)
def test_trials_of_a_search_are_runs_of_their_own(name, everywhere, tmp_path):
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
    assert everywhere.num_runs(name, out) >= 2


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
    assert everywhere.service.opened == {}


def test_trainer_is_pickled_with_its_trackers_and_the_copy_trains(everywhere, tmp_path):
    trainer = build(tmp_path / "out", report_to="generic")
    trainer.train()
    copy = pickle.loads(pickle.dumps(trainer))
    finish(trainer)
    copy.args.output_dir = str(tmp_path / "copy")
    copy.train()
    finish(copy)
    assert everywhere.service.points[copy.run_id] == journal_points(tmp_path / "copy")
    assert copy.run_id != trainer.run_id


def test_name_of_a_metric_is_in_its_split():
    assert [group_name(name) for name in ("loss", "eval_loss", "test_f1", "eval_cats_loss")] == [
        "train/loss",
        "eval/loss",
        "test/f1",
        "eval/cats_loss",
    ]
