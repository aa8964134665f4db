"""MLflow beside a training: in the process of its own, or in the program's, whose active run it shares."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import time
from typing import ClassVar

import pytest

from loopwright import TrainerCallback
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.mlflow_client import MLflowService
from tests.trackers.mlflow_service import recorded_points, stored_points
from tests.trackers.trainings import build

pytest_plugins = ("tests.trackers.mlflow_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("own_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

SCRIPT = """
import sys
from pathlib import Path
from tests.trackers.trainings import build

if __name__ == "__main__":
    build(Path("out"), report_to="mlflow", run_name="beside", tracker_call_timeout=60, tracker_close_timeout=60).train()
    assert "mlflow" not in sys.modules
"""


class Program(TrainerCallback):
    """Logs to the active run, as programs do."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at

    def on_step_end(self, args, state, control, **kwargs):
        import mlflow

        mlflow.log_metric("own", state.global_step / 2, step=state.global_step)
        if state.global_step == self.fail_at:
            raise RuntimeError("the program's own")


@pytest.fixture
def train(tmp_path):
    def train(*callbacks, directory="out", resume=None, **arguments):
        patient = {"tracker_open_timeout": 60, "tracker_call_timeout": 60, "tracker_close_timeout": 60}
        trainer = build(tmp_path / directory, callbacks=callbacks, **({"save_strategy": "no"} | patient | arguments))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def parts(client, run_id):
    """Return the points of the tracker, and the steps of those that the program logged itself."""
    held = stored_points(client(), run_id)
    return [point for point in held if point[0] != "own"], [step for name, step, *_ in held if name == "own"]


def test_delivery_process_reports_what_the_journal_holds(client, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "script.py"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr
    (run,) = client().search_runs(["0"])
    assert stored_points(client(), run.info.run_id) == recorded_points(tmp_path / "out")
    assert (run.info.run_name, run.info.status) == ("beside", "FINISHED")
    assert run.data.params["per_device_train_batch_size"] == "2"
    assert "mlflow.user" in run.data.tags
    assert "mlflow.source.name" not in run.data.tags  # it would be Loopwright's own


def test_active_run_of_the_program_is_used_and_left_open(client, train, tmp_path):
    import mlflow

    with mlflow.start_run() as active:
        train(MLflowCallback, Program())
        assert mlflow.active_run() is active
        assert client().get_run(active.info.run_id).info.status == "RUNNING"
    (run,) = client().search_runs(["0"])
    assert run.info.run_id == active.info.run_id
    assert parts(client, run.info.run_id) == (recorded_points(tmp_path / "out"), list(range(1, 13)))


def test_without_one_the_run_becomes_the_active_one_of_the_loop(client, train, tmp_path):
    import mlflow

    train(MLflowCallback, Program(), run_name="mine")
    assert mlflow.active_run() is None
    (run,) = client().search_runs(["0"])
    assert parts(client, run.info.run_id) == (recorded_points(tmp_path / "out"), list(range(1, 13)))
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.tags["mlflow.source.name"] == sys.argv[0]
    assert mlflow.last_active_run().info.run_id == run.info.run_id


def test_nested_run_is_a_child_of_the_active_one(client, train, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_NESTED_RUN", "1")
    with mlflow.start_run() as active:
        train(MLflowCallback, Program())
        assert mlflow.active_run() is active
    (child,) = client().search_runs(["0"], f"tags.`mlflow.parentRunId` = '{active.info.run_id}'")
    assert parts(client, child.info.run_id) == (recorded_points(tmp_path / "out"), list(range(1, 13)))
    assert child.info.status == "FINISHED"
    assert stored_points(client(), active.info.run_id) == []


def test_failed_training_leaves_a_failed_run_and_no_active_one(client, train, tmp_path):
    import mlflow

    with pytest.raises(RuntimeError, match="the program's own"):
        train(MLflowCallback, Program(fail_at=4))
    assert mlflow.active_run() is None
    (run,) = client().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert parts(client, run.info.run_id) == (recorded_points(tmp_path / "out"), [1, 2, 3, 4])


def test_active_run_of_a_resumed_training_gets_what_came_before(client, train, tmp_path):
    import mlflow

    with pytest.raises(RuntimeError, match="the program's own"):
        train(MLflowCallback, Program(fail_at=8), save_strategy="steps")
    (first,) = client().search_runs(["0"])
    with mlflow.start_run() as active:
        train(MLflowCallback, save_strategy="steps", resume=True)
    held = recorded_points(tmp_path / "out")
    assert {step for name, step, *_ in held if name == "train/loss"} == set(range(1, 13))
    assert parts(client, active.info.run_id)[0] == held
    assert client().get_run(first.info.run_id).info.status == "FAILED"


def test_run_of_another_trainer_does_not_count_as_the_programs(client, train, tmp_path):
    import mlflow

    evaluated = build(tmp_path / "evaluated", callbacks=[MLflowCallback])
    evaluated.evaluate()
    first = mlflow.active_run().info.run_id
    train(MLflowCallback, Program())
    assert mlflow.active_run().info.run_id == first
    evaluated.reporting.close()
    assert mlflow.active_run() is None
    second = next(run.info.run_id for run in client().search_runs(["0"]) if run.info.run_id != first)
    assert parts(client, first) == (recorded_points(tmp_path / "evaluated"), [])
    assert parts(client, second) == (recorded_points(tmp_path / "out"), list(range(1, 13)))


def test_run_that_opens_late_becomes_the_active_one_then(train, monkeypatch):
    import mlflow

    genuine = MLflowService.find_tagged

    def find_slowly(*arguments):
        time.sleep(1.0)
        return genuine(*arguments)

    class Watches(TrainerCallback):
        seen: ClassVar[list[bool]] = []

        def on_step_end(self, args, state, control, **kwargs):
            self.seen.append(mlflow.active_run() is not None)
            time.sleep(0.2)

    monkeypatch.setattr(MLflowService, "find_tagged", find_slowly)
    train(MLflowCallback, Watches(), tracker_open_timeout=0.1)
    assert (Watches.seen[0], Watches.seen[-1]) == (False, True)
    assert mlflow.active_run() is None


class Changing(MLflowCallback):
    def setup(self, args, state, model):
        super().setup(args, state, model)
        self.seen = (self._ml_flow.__name__, type(model).__name__, args.logging_steps)

    def on_log(self, args, state, control, logs, model=None, **kwargs):
        if "loss" in logs:
            super().on_log(args, state, control, {"doubled": 2 * logs["loss"]}, model=model, **kwargs)


def test_subclass_hands_on_logs_of_its_own(client, train, tmp_path):
    tracker = Changing()
    trainer = train(tracker)
    assert tracker.seen == ("mlflow", "Network", 1)
    (run,) = client().search_runs(["0"])
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    held = stored_points(client(), run.info.run_id)
    assert [(name, step, value) for name, step, _, value in held] == sorted(
        ("train/doubled", step, repr(2 * loss)) for step, loss in enumerate(losses, start=1)
    )


def test_tracker_that_is_open_can_be_copied(train):
    tracker = MLflowCallback()

    class Copies(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            self.copies = copy.deepcopy(tracker), pickle.loads(pickle.dumps(tracker))

    copies = Copies()
    train(tracker, copies)
    assert [(one._initialized, one._service) for one in copies.copies] == [(False, None)] * 2
