"""A Trainer's journal: what it holds after trainings, evaluations, crashes, resumes and branches."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from loopwright import EarlyStoppingCallback, TrainerCallback
from loopwright.errors import JournalBusy
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from tests.trackers.trainings import Network, build, journal_points

ROOT = Path(__file__).parents[2]


def records(directory, kind=Kind.LOG):
    with JournalReader(directory) as reader:
        return reader.records(kinds=[kind])


def attempts(directory):
    with JournalReader(directory) as reader:
        return reader.attempts()


def runs(directory):
    with JournalReader(directory) as reader:
        return reader.runs()


def lines_of(trainer):
    return [
        (line["step"], {key: value for key, value in line.items() if key != "step"})
        for line in trainer.state.log_history
    ]


# What is in it


def test_journal_is_kept_without_any_tracker_and_equals_the_log_history(tmp_path):
    trainer = build(tmp_path, report_to="none", eval_strategy="steps", eval_steps=5)
    assert not list(tmp_path.glob("journal*")), "nothing is opened by making a Trainer"
    trainer.train()
    trainer.evaluate()
    assert [(record.step, record.values) for record in records(tmp_path)] == lines_of(trainer)
    assert trainer.reporting._delivery is None, "without trackers there is no process"


def test_what_callbacks_add_reaches_journal_and_trackers(tmp_path, generic, service):
    class Adds(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logs["added"] = 2.0 * state.global_step

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            metrics["eval_added"] = 7.0

    trainer = build(tmp_path, callbacks=[generic.GenericCallback(), Adds()])
    trainer.train()
    trainer.evaluate()
    trainer.reporting.close()
    held = {(name, step): value for (name, step, _), value in service.points[trainer.run_id].items()}
    assert held["train/added", 3] == "6.0"
    assert held["eval/added", 12] == "7.0"
    assert service.points[trainer.run_id] == journal_points(tmp_path)


def test_line_whose_callback_raises_is_recorded_all_the_same(tmp_path):
    class Raises(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.global_step == 4:
                raise ValueError("in on_log")

    trainer = build(tmp_path, callbacks=[Raises()])
    with pytest.raises(ValueError, match="in on_log"):
        trainer.train()
    assert [record.step for record in records(tmp_path)] == [1, 2, 3, 4]
    (attempt,) = attempts(tmp_path)
    assert attempt.status is Status.FAILED
    assert attempt.reason.startswith("ValueError: in on_log")


def test_prediction_is_recorded_and_delivered_in_its_split(tmp_path, generic, service):
    trainer = build(tmp_path, callbacks=[generic.GenericCallback()])
    trainer.train()
    metrics = trainer.predict(trainer.eval_dataset).metrics
    trainer.reporting.close()
    (record,) = records(tmp_path, Kind.PREDICTION)
    assert record.values == metrics
    assert any(name == "test/loss" for name, *_ in service.points[trainer.run_id])


def test_who_decided_what_is_recorded_and_who_stopped(tmp_path):
    trainer = build(
        tmp_path, callbacks=[EarlyStoppingCallback(1, 1e9)], num_train_epochs=5, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, save_steps=1,
    )  # fmt: skip
    trainer.train()
    stops = [record for record in records(tmp_path, Kind.DECISION) if record.values["flag"] == "should_training_stop"]
    assert [(record.step, record.values["callback"]) for record in stops] == [(2, "EarlyStoppingCallback")]
    assert attempts(tmp_path)[-1].status is Status.STOPPED
    assert attempts(tmp_path)[-1].reason == ("step 2: EarlyStoppingCallback set should_training_stop in on_evaluate")


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, Status.INTERRUPTED), (SystemExit, Status.INTERRUPTED)]
)
def test_ctrl_c_and_exit_are_interruptions(error, status, tmp_path):
    class Leaves(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise error

    trainer = build(tmp_path, callbacks=[Leaves()])
    with pytest.raises(error):
        trainer.train()
    assert attempts(tmp_path)[-1].status is status


def test_no_secret_is_in_the_journal(tmp_path):
    model = Network()
    model.config = {"hidden_size": 8, "api_key": "very-secret"}
    trainer = build(tmp_path, model=model)
    trainer.train()
    (run,) = runs(tmp_path)
    assert run.parameters["hidden_size"] == 8
    assert run.parameters["learning_rate"] == 5e-5
    for file in tmp_path.glob("journal.*"):
        assert b"very-secret" not in file.read_bytes()


def test_second_process_is_refused_and_the_first_unharmed(tmp_path):
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.trackers.trainings import build
from pathlib import Path
try:
    build(Path({str(tmp_path)!r})).train()
except Exception as error:
    print(type(error).__name__, error)
"""
    seen = []

    class StartsAnother(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
                seen.append(finished.stdout.splitlines()[-1])

    trainer = build(tmp_path, callbacks=[StartsAnother()])
    trainer.train()
    assert seen[0].startswith("JournalBusy")
    assert f"process {os.getpid()} on" in seen[0]
    assert [(record.step, record.values) for record in records(tmp_path)] == lines_of(trainer)


def test_training_inside_a_training_in_the_same_directory_is_refused(tmp_path):
    class TrainsToo(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            build(tmp_path).train()

    with pytest.raises(JournalBusy, match="another training of this process"):
        build(tmp_path, callbacks=[TrainsToo()]).train()


# Crashes, resumes, branches


class Stops(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("crash")


def crash(directory, step=8, **options):
    with pytest.raises(RuntimeError, match="crash"):
        build(directory, callbacks=[Stops(step)], **options).train()


def test_resumed_run_repeats_nothing_and_is_the_same_run(tmp_path, generic, service, caplog):
    crash(tmp_path, report_to="generic")
    trainer = build(tmp_path, report_to="generic")
    trainer.train(resume_from_checkpoint=True)
    trainer.reporting.close()
    assert [record.step for record in records(tmp_path) if "loss" in record.values] == list(range(1, 13))
    assert len(runs(tmp_path)) == 1
    assert [attempt.status for attempt in attempts(tmp_path)] == [Status.FAILED, Status.COMPLETED]
    assert service.points[trainer.run_id] == journal_points(tmp_path)
    assert service.opened.keys() == {trainer.run_id}
    assert "diverged" not in caplog.text


def test_run_that_broke_off_before_its_first_checkpoint_is_done_over(tmp_path, generic, service):
    crash(tmp_path, step=3, report_to="generic")
    trainer = build(tmp_path, report_to="generic")
    trainer.train(resume_from_checkpoint="auto")
    trainer.reporting.close()
    (run,) = runs(tmp_path)
    assert [record.step for record in records(tmp_path) if "loss" in record.values] == list(range(1, 13))
    assert service.points.keys() == {run.id}


def test_divergence_is_an_alarm_and_the_new_values_count(tmp_path, caplog):
    crash(tmp_path)
    trainer = build(tmp_path)
    with torch.no_grad():
        trainer.train_dataset[0]["x"].add_(1.0)  # the data has changed meanwhile
    for example in trainer.train_dataset:
        example["x"].mul_(1.5)
    trainer.train(resume_from_checkpoint=True)
    assert "diverged at step 6: loss" in caplog.text
    assert [(record.step, record.values) for record in records(tmp_path)][-8:] == lines_of(trainer)[-8:]
    (rewind,) = records(tmp_path, Kind.REWIND)
    assert rewind.step == 6


def test_older_checkpoint_or_other_arguments_branch_off(tmp_path, generic, service, caplog):
    first = build(tmp_path, report_to="generic")
    first.train()
    first.reporting.close()
    older = build(tmp_path, report_to="generic")
    older.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    older.reporting.close()
    assert "checkpoint-12 is newer" in caplog.text
    other = build(tmp_path, report_to="generic", learning_rate=1e-2)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    other.reporting.close()
    assert "learning_rate=0.01 was 5e-05" in caplog.text
    found = {run.id: run for run in runs(tmp_path)}
    assert len({first.run_id, older.run_id, other.run_id}) == 3
    assert (found[older.run_id].parent_id, found[older.run_id].parent_step) == (first.run_id, 5)
    assert service.parents[older.run_id] == first.run_id
    assert found[other.run_id].parent_step == 12


def test_arguments_that_change_no_number_do_not_branch(tmp_path):
    crash(tmp_path)
    build(tmp_path, report_to="none", tracker_close_timeout=3, run_name="renamed", save_total_limit=7).train(
        resume_from_checkpoint=True
    )
    assert len(runs(tmp_path)) == 1


# Checkpoints that a tracker takes


def test_rotation_leaves_a_checkpoint_until_it_is_taken(tmp_path, generic, service, monkeypatch):
    monkeypatch.setenv("GENERIC_ARTIFACTS", "1")
    service.go_away()
    trainer = build(tmp_path, report_to="generic", save_steps=2, save_total_limit=1, tracker_close_timeout=3)
    trainer.train()
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert len(kept) == 6, "none could be taken"
    service.come_back()
    trainer.evaluate()
    trainer.reporting.close()
    assert sum(service.artifacts.get(trainer.run_id, {}).values()) == 6


def test_checkpoint_that_a_kill_kept_from_being_recorded_is_taken_after_the_resume(
    tmp_path, generic, service, monkeypatch
):
    monkeypatch.setenv("GENERIC_ARTIFACTS", "1")
    crash(tmp_path, step=5)
    connection = sqlite3.connect(tmp_path / "journal.db")
    with connection:  # as if it had come right after the rename
        connection.execute("DELETE FROM records WHERE kind = 'checkpoint'")
    connection.close()
    trainer = build(tmp_path, report_to="generic")
    trainer.train(resume_from_checkpoint=True)
    trainer.reporting.close()
    assert service.artifacts[trainer.run_id] == {"checkpoint-5": 1, "checkpoint-10": 1, "checkpoint-12": 1}
    assert len(records(tmp_path, Kind.CHECKPOINT)) == 3


# Ordering and isolation in the handler


def test_trackers_open_first_and_hear_last(tmp_path, generic, service):
    order = []

    class Tracker(generic.GenericCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            order.append(("begin", "tracker"))

        def on_log(self, args, state, control, model=None, logs=None, **kwargs):
            order.append(("log", "tracker"))

    class Other(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            order.append(("begin", "other"))

        def on_log(self, args, state, control, **kwargs):
            order.append(("log", "other"))

    trainer = build(tmp_path, callbacks=[Other(), Tracker(), Other()], max_steps=1)
    trainer.train()
    trainer.reporting.close()
    assert order[:3] == [("begin", "tracker"), ("begin", "other"), ("begin", "other")]
    assert order[3:6] == [("log", "other"), ("log", "other"), ("log", "tracker")]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(5)])
def test_tracker_that_raises_in_the_loop_does_not_end_it(error, tmp_path, generic, service, caplog):
    class Tracker(generic.GenericCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise error

    trainer = build(tmp_path, callbacks=[Tracker()])
    trainer.train()
    trainer.reporting.close()
    assert trainer.state.global_step == 12
    assert caplog.text.count("Tracker.on_step_end raised, and training goes on") == 1


def test_variable_that_cannot_be_understood_leaves_the_tracker_out(tmp_path, generic, service, monkeypatch, caplog):
    monkeypatch.setenv("GENERIC_ARTIFACTS", "perhaps")
    trainer = build(tmp_path, callbacks=[generic.GenericCallback()])
    trainer.train()
    trainer.reporting.close()
    assert "GENERIC_ARTIFACTS='perhaps': expected one of" in caplog.text
    assert service.points == {}


# The process


def test_delivery_process_is_gone_when_training_is(tmp_path, generic, service):
    program = f"""
import sys, os; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent / "generic")!r}]
import generic_tracker
from tests.trackers.trainings import build
from pathlib import Path
trainer = build(Path({str(tmp_path)!r}), callbacks=[generic_tracker.GenericCallback()])
trainer.train()
print(trainer.reporting._delivery._children[0]._process.pid, flush=True)
os.kill(os.getpid(), 9) if sys.argv[1:] else None
"""
    for how in ([], ["killed"]):
        finished = subprocess.run([sys.executable, "-c", program, *how], capture_output=True, text=True, check=False)
        pid = int(finished.stdout.split()[-1])
        until = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists(), how


def test_training_imports_no_sdk(tmp_path):
    program = f"""
import sys, json; sys.path.insert(0, {str(ROOT)!r})
from tests.trackers.trainings import build
from pathlib import Path
trainer = build(Path({str(tmp_path)!r}), report_to=["tensorboard", "mlflow", "wandb"], tracker_close_timeout=0)
trainer.train()
print("SDKS", json.dumps(sorted({{"wandb", "mlflow", "tensorboard", "torch.utils.tensorboard"}} & set(sys.modules))))
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=120
    )
    found = next(line for line in finished.stdout.splitlines() if line.startswith("SDKS"))
    assert json.loads(found.removeprefix("SDKS")) == []


def test_nothing_is_said_twice_about_leftovers(tmp_path, generic, service, caplog):
    service.go_away()
    caplog.set_level(logging.WARNING)
    trainer = build(tmp_path, callbacks=[generic.GenericCallback()], tracker_close_timeout=2)
    trainer.train()
    trainer.reporting.close()
    assert caplog.text.count("loopwright sync") == 1
