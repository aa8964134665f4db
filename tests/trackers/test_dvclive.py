"""DVCLive, its files read back: equal to the journal, each metric once a step, whatever happened in between."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from loopwright.errors import ArgumentError, TrackerError
from loopwright.integrations import DVCLiveCallback
from loopwright.records import Kind
from loopwright.trackers.dvclive import drop_rows_of
from loopwright.trackers.placement import place
from tests.trackers import readback
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.dvclive import points
from tests.trackers.trainings import build, deliver_what_is_left

LOUD = "ignore:unclosed:ResourceWarning"  # files that DVC leaves open


class Journal(ServiceJournal):
    tracker_class = DVCLiveCallback

    def log(self, first, last):
        for step in range(first, last + 1):
            self.note(Kind.LOG, step, {"loss": 1 / step, "epoch": step / 10})

    def deliver(self):
        """Deliver everything in this process, and close."""
        worker = self.start_worker()
        worker.finish()
        assert worker.join(60), worker.error
        assert worker.error is None, worker.error


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_DVCLIVE_LOG_MODEL", raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", parameters={"lr": 0.1, "layers": [1, 2], "nested": {"a": None}})


@pytest.fixture
def repository(tmp_path):
    """The test's folder as a Git and DVC repository with one commit."""
    name = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", *name, "commit", "-qm", "first"]):
        program = str(Path(sys.executable).with_name("dvc")) if command[0] == "dvc" else "git"
        subprocess.run([program, *command[1:]], check=True, capture_output=True)
    for key, value in (("user.name", "n"), ("user.email", "e@example.org")):
        subprocess.run(["git", "config", key, value], check=True)


def test_files_are_the_journal_and_the_summary_its_newest_values(journal, tmp_path):
    journal.begin()
    journal.log(1, 20)
    journal.note(Kind.LOG, 20, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5}, "epoch": 2.0, "note": "a text"})
    journal.note(Kind.LOG, 21, {"loss": math.inf, "is_good": True, "big": 2**70})
    journal.end()
    journal.deliver()
    held = points(tmp_path / "dvclive")
    assert held == readback.last_of_each(journal.directory)
    assert {("eval/f1/cats", 20), ("train/is_good", 21)} <= held.keys()
    summary = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert (summary["train"]["epoch"], summary["eval"]["loss"], summary["step"]) == (2.0, 0.25, 21)
    assert yaml.safe_load((tmp_path / "dvclive" / "params.yaml").read_text()) == journal.run.parameters


def test_nan_is_in_the_file_as_such(journal, tmp_path):
    journal.begin()
    journal.note(Kind.LOG, 1, {"loss": math.nan})
    journal.deliver()
    assert math.isnan(points(tmp_path / "dvclive")["train/loss", 1])


def test_metric_that_is_said_twice_of_a_step_is_there_once(journal, tmp_path):
    journal.begin()
    journal.log(1, 3)
    journal.deliver()
    journal.note(Kind.LOG, 3, {"epoch": 0.35, "train_runtime": 2.0})
    journal.note(Kind.LOG, 3, {"epoch": 0.4})
    journal.end()
    journal.deliver()
    held = points(tmp_path / "dvclive")
    assert held == readback.last_of_each(journal.directory)
    assert held["train/epoch", 3] == 0.4


def test_what_a_kill_left_is_taken_out_and_comes_again(journal, tmp_path):
    journal.begin()
    journal.log(1, 10)
    journal.deliver()
    before = points(tmp_path / "dvclive")
    with (tmp_path / "dvclive" / "plots" / "metrics" / "train" / "loss.tsv").open("a") as file:
        file.write("11\t0.0")  # torn
    journal.forget(cursor=8)
    journal.log(11, 15)
    journal.end()
    deliver_what_is_left_here(journal)
    held = points(tmp_path / "dvclive")
    assert held == readback.last_of_each(journal.directory)
    assert before.items() <= held.items()


def deliver_what_is_left_here(journal):
    journal.recorder.close()
    deliver_what_is_left(journal.directory)


def test_killed_for_real_and_delivered_later_the_files_are_the_journal(tmp_path):
    (tmp_path / "program.py").write_text(
        "import time\n"
        "from loopwright import TrainerCallback\n"
        "from tests.trackers.trainings import build\n"
        "class Slow(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        time.sleep(0.1)\n"
        "if __name__ == '__main__':\n"
        "    build('out', report_to='dvclive', max_steps=300, callbacks=[Slow()], tracker_call_timeout=60).train()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not (tmp_path / "dvclive" / "plots" / "metrics").is_dir():
        time.sleep(0.02)
    followers = [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if int(stat.read_text().rpartition(")")[2].split()[1]) == process.pid
    ]
    for pid in (*followers, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert followers
    deliver_what_is_left(tmp_path / "out")
    held = points(tmp_path / "dvclive")
    assert held == readback.last_of_each(tmp_path / "out") != {}


def test_rewind_takes_rows_out_and_the_new_values_come(journal, tmp_path):
    journal.recorder.is_deterministic = True
    journal.begin()
    journal.log(1, 4)
    resumed_at = journal.recorder.whereabouts()
    journal.log(5, 9)
    journal.deliver()
    journal.begin(first_step=4, resumed_at=resumed_at)
    journal.note(Kind.LOG, 5, {"loss": 77.0, "epoch": 0.5})
    journal.end()
    journal.deliver()
    held = points(tmp_path / "dvclive")
    assert held == readback.last_of_each(journal.directory)
    assert held["train/loss", 5] == 77.0
    assert ("train/loss", 6) not in held


def test_files_that_somebody_deleted_come_again(journal, tmp_path):
    import shutil

    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    shutil.rmtree(tmp_path / "dvclive")
    journal.log(6, 7)
    journal.end()
    journal.deliver()
    assert points(tmp_path / "dvclive") == readback.last_of_each(journal.directory)


def test_runs_trials_and_branches_do_not_overwrite_each_other(tmp_path):
    first = Journal(tmp_path / "one")
    branch = Journal(tmp_path / "two", id="b" * 32, parent_id=first.run.id, parent_step=4)
    trial = Journal(tmp_path / "three", trial_name="trial-7", trial_parameters={})
    for journal in (first, branch, trial):
        journal.begin()
        journal.log(1, 2)
        journal.end()
        journal.deliver()
    for folder, journal in {"dvclive": first, "dvclive_bbbbbbbb": branch, "dvclive_trial-7": trial}.items():
        assert points(tmp_path / folder) == readback.last_of_each(journal.directory)
    parent = yaml.safe_load((tmp_path / "dvclive_bbbbbbbb" / "params.yaml").read_text())["parent"]
    assert parent == f"run {first.run.id}, step 4"


def train(tmp_path, tracker, **arguments):
    trainer = build(
        tmp_path / "out", callbacks=[tracker], tracker_open_timeout=60, tracker_call_timeout=60,
        tracker_close_timeout=60, **arguments,
    )  # fmt: skip
    trainer.train()
    trainer.reporting.close()


def test_arguments_are_those_of_live(tmp_path):
    train(tmp_path, DVCLiveCallback(dir="elsewhere", report="html", dvcyaml=False))
    assert points(tmp_path / "elsewhere") == readback.last_of_each(tmp_path / "out")
    assert "train/loss" in (tmp_path / "elsewhere" / "report.html").read_text()
    assert not (tmp_path / "dvc.yaml").exists()
    assert place(DVCLiveCallback(dir=Path("elsewhere"))).place == "training"


@pytest.mark.filterwarnings(LOUD)
def test_live_of_the_program_is_used_where_it_is(tmp_path):
    from dvclive import Live

    live = Live(dir=str(tmp_path / "own"), save_dvc_exp=False, dvcyaml=False)
    live.log_param("mine", 1)
    tracker = DVCLiveCallback(live=live)
    assert place(tracker).place == "training"
    train(tmp_path, tracker)
    assert points(tmp_path / "own") == readback.last_of_each(tmp_path / "out")
    assert yaml.safe_load((tmp_path / "own" / "params.yaml").read_text())["mine"] == 1


@pytest.mark.parametrize(("argument", "value"), [("live", 3), ("log_model", "some")])
def test_bad_argument_is_named(argument, value):
    with pytest.raises(ArgumentError, match=f"{argument}={value!r}: expected"):
        DVCLiveCallback(**{argument: value})


def test_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "loss.tsv"
    path.write_text("epoch\tloss\n1\t2\n")
    with pytest.raises(TrackerError, match="no metric of DVCLive's"):
        drop_rows_of(path, 1)
    assert path.read_text() == "epoch\tloss\n1\t2\n"


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [(None, None, False), (None, "TRUE", True), (None, "1", True), (None, "all", "all"), (False, "all", False),
     ("all", None, "all"), (True, "false", True)],
)  # fmt: skip
def test_what_is_tracked_is_what_the_argument_says_else_the_variable(argument, variable, expected, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("HF_DVCLIVE_LOG_MODEL", variable)
    tracker = DVCLiveCallback(log_model=argument)
    assert tracker._what_to_track() == expected
    assert tracker.wants_checkpoints() is (expected == "all")


def test_model_at_the_end_is_tracked_by_dvc_and_the_experiment_saved(repository, tmp_path):
    train(tmp_path, DVCLiveCallback(log_model=True))
    assert (tmp_path / "dvclive" / "artifacts" / "last.dvc").exists()
    assert (tmp_path / "dvclive" / "artifacts" / "last" / "model.safetensors").exists()
    artifact = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["artifacts"]["last"]
    assert artifact["type"] == "model"
    refs = subprocess.run(["git", "for-each-ref", "refs/exps"], capture_output=True, text=True, check=True).stdout
    assert len(refs.splitlines()) >= 1


def test_all_checkpoints_are_tracked_where_that_is_asked_for(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DVCLIVE_LOG_MODEL", "all")
    train(tmp_path, DVCLiveCallback(save_dvc_exp=False))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.dvc")) == [
        "checkpoint-10.dvc",
        "checkpoint-12.dvc",
        "checkpoint-5.dvc",
    ]


def test_without_a_dvc_repository_that_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    train(tmp_path, DVCLiveCallback(log_model="all", monitor_system=False))
    said = [line for line in caplog.messages if "is in no DVC repository" in line]
    assert len(said) == 1
    assert points(tmp_path / "dvclive") == readback.last_of_each(tmp_path / "out")
