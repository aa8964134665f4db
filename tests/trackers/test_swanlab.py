"""SwanLab's offline files hold what the journal holds, all of a run together: after kills, resumes and outages."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from loopwright.integrations import SwanLabCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import swanlab_files, swanlab_session
from tests.trackers.disks import mount_small_disk
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.swanlab import NAN, files_in, first_of_each, points_in, records_in
from tests.trackers.swanlab_service import Cloud
from tests.trackers.trainings import build, deliver_what_is_left

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Journal(ServiceJournal):
    """A journal of one run that reports to SwanLab."""

    tracker_class = SwanLabCallback
    age_seconds = 100.0


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Where the files go, and no variable from elsewhere."""
    for name in [name for name in os.environ if name.startswith("SWANLAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(tmp_path / "swanlog"))
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "swanlog"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo")


def start_of(path):
    return next(record.start for record in records_in(path) if record.HasField("start"))


def finish_of(path):
    return next((record.finish for record in records_in(path) if record.HasField("finish")), None)


def config_of(path):
    return {
        name: entry["value"] for name, entry in yaml.safe_load((path.parent / "files/config.yaml").read_text()).items()
    }


# Points


def test_points_are_those_of_the_journal_with_their_times(journal, directory):
    journal.begin()
    journal.log(1, 30)
    journal.note(Kind.LOG, 30, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5, "dogs": 0.75}, "note": "half way"})
    journal.note(Kind.LOG, 30, {"train_runtime": 3.5, "train_loss": 0.5, "epoch": 3.5})
    journal.end()
    assert journal.deliver() is None
    found = points_in(directory)
    assert found == first_of_each(journal.directory)
    assert found["eval/f1/cats", 30] == 0.5
    assert found["single_value/train_runtime", 30] == 3.5
    assert found["train/epoch", 30] == 3.0, "the first value stays"
    (path,) = files_in(directory)
    scalars = [record.scalar for record in records_in(path) if record.HasField("scalar")]
    times = [scalar.timestamp.ToNanoseconds() / 1e9 for scalar in scalars if scalar.key == "train/loss"]
    with JournalReader(journal.directory) as reader:
        assert times == pytest.approx([one.time for one in reader.records() if "loss" in one.values], abs=1e-5)
    assert [scalar.value.number for scalar in scalars if scalar.key == "train/global_step"] == list(range(1, 31))


def test_odd_values_and_names_arrive(journal, directory):
    journal.begin()
    journal.log(1, loss=math.nan, up=math.inf, huge=10**400, large=2**70, yes=True, none=None, many=[1])
    journal.log(2, **{"eval_/a b/": 1.0, "x" * 600: 2.0, "eval_": 3.0})
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == {
        ("train/loss", 1): NAN,
        ("train/up", 1): math.inf,
        ("train/huge", 1): math.inf,
        ("train/large", 1): 2.0**70,
        ("train/yes", 1): 1.0,
        ("eval//a b", 2): 1.0,
        (f"train/{'x' * 506}", 2): 2.0,
        ("eval", 2): 3.0,
    }


def test_folder_holds_nothing_of_the_delivery_process(journal, directory, tmp_path):
    journal.begin()
    journal.log(1)
    journal.end()
    journal.deliver()
    (path,) = files_in(directory)
    names = {one.name for one in path.parent.rglob("*") if one.is_file()}
    assert names <= {path.name, "config.yaml", "swanlab-metadata.json", "debug.log"}
    kinds = {record.WhichOneof(record.DESCRIPTOR.oneofs[0].name) for record in records_in(path)}
    assert "log" not in kinds, "no console output"
    assert list((tmp_path / "here").iterdir()) == []


# The run


def test_run_has_name_project_and_parameters(tmp_path, directory, monkeypatch):
    monkeypatch.setenv("SWANLAB_PROJECT", "vision")
    journal = Journal(tmp_path / "out", name="demo", parameters={"learning_rate": 0.1, "betas": [0.9, 0.999]})
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    (path,) = files_in(directory)
    start, config = start_of(path), config_of(path)
    assert (start.name, start.project, start.id) == ("demo", "vision", journal.run.id)
    assert config["learning_rate"] == 0.1
    assert config["betas"] == [0.9, 0.999]
    assert config["loopwright/run_id"] == journal.run.id


@pytest.mark.parametrize(
    ("project", "expected"), [("mine", "mine"), (None, "here"), ("huggingface", "here"), ("a project!", "a_project_")]
)
def test_project_is_the_argument_or_the_directory_of_the_program(project, expected, tmp_path, directory):
    journal = Journal(tmp_path / "out", project=project)
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    (path,) = files_in(directory)
    assert start_of(path).project == expected


def test_files_are_in_output_dir_by_default(journal, monkeypatch):
    monkeypatch.delenv("SWANLAB_LOG_DIR")
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    assert points_in(journal.directory / "swanlog") == first_of_each(journal.directory)


@pytest.mark.parametrize(
    ("status", "state"),
    [(Status.COMPLETED, "FINISHED"), (Status.STOPPED, "FINISHED"), (Status.FAILED, "CRASHED"),
     (Status.PREEMPTED, "ABORTED"), (Status.KILLED, "ABORTED")],
)  # fmt: skip
def test_run_ends_as_the_training_did(status, state, journal, directory):
    journal.begin()
    journal.log(1)
    journal.end(status)
    assert journal.deliver() is None
    (path,) = files_in(directory)
    finish = finish_of(path)
    states = type(finish).DESCRIPTOR.fields_by_name["state"].enum_type
    assert states.values_by_number[finish.state].name == f"RUN_STATE_{state}"


def test_resumed_run_is_a_second_folder_of_the_same_run(journal, directory):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    assert journal.deliver() is None
    assert len(files_in(directory)) == 2
    assert {start_of(path).id for path in files_in(directory)} == {journal.run.id}
    assert points_in(directory) == first_of_each(journal.directory)


def test_branch_names_its_parent_and_a_trial_its_group(tmp_path, directory, monkeypatch):
    monkeypatch.setenv("SWANLAB_RUN_ID", "chosen")
    branch = Journal(tmp_path / "branch", name="branch", parent_id="ab" * 16, parent_step=7)
    trial = Journal(tmp_path / "trial", name="search", trial_name="trial-3", trial_parameters={"learning_rate": 0.1})
    plain = Journal(tmp_path / "plain")
    starts = {}
    for journal in (branch, trial, plain):
        journal.begin()
        journal.log(8, 9)
        journal.end()
        assert journal.deliver() is None
    for path in files_in(directory):
        start = start_of(path)
        starts[start.name] = start
        if start.name == "branch":
            assert config_of(path)["loopwright/parent_run_id"] == "ab" * 16
            assert config_of(path)["loopwright/parent_step"] == 7
    assert starts["search-trial-3"].group == "search"
    assert {name: start.id for name, start in starts.items()} == {
        "branch": branch.run.id, "search-trial-3": trial.run.id, "plain": "chosen",
    }  # fmt: skip


def test_never_resume_begins_a_run_of_its_own(journal, directory, monkeypatch):
    monkeypatch.setenv("SWANLAB_RUN_ID", "chosen")
    monkeypatch.setenv("SWANLAB_RESUME", "never")
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    (path,) = files_in(directory)
    assert start_of(path).id == journal.run.id


def test_disabled_reports_nothing(tmp_path, directory, monkeypatch):
    monkeypatch.setenv("SWANLAB_MODE", "disabled")
    assert SwanLabCallback().why_off() == "SWANLAB_MODE=disabled"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("SWANLAB_MODE", "clouds", "taken as unset"), ("SWANLAB_RESUME", "perhaps", "taken as allow"),
     ("SWANLAB_LOG_MODEL", "true", "SwanLab stores no models"),
     ("SWANLAB_MODE", "local", "needs the package swanboard")],
)  # fmt: skip
def test_odd_variables_are_said_and_the_run_is_there(name, text, said, journal, directory, monkeypatch, caplog):
    monkeypatch.setenv(name, text)
    journal.begin()
    SwanLabCallback().why_off()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)
    assert said in caplog.text


# Without credentials, without a network


def test_without_a_key_the_run_is_offline_and_said_so(journal, directory, monkeypatch, caplog):
    monkeypatch.delenv("SWANLAB_MODE")
    journal.begin()
    journal.log(1, 5)
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)
    (line,) = [line for line in caplog.messages if "no API key" in line]
    assert f"swanlab sync {directory}/run-*" in line


def test_cloud_that_is_asked_for_without_a_key_waits(journal, directory, monkeypatch):
    monkeypatch.setenv("SWANLAB_MODE", "cloud")
    journal.begin()
    journal.log(1, 5)
    assert "set SWANLAB_API_KEY" in journal.deliver()
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


def test_server_that_is_away_loses_nothing(journal, directory, monkeypatch):
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    monkeypatch.setenv("SWANLAB_API_HOST", f"http://127.0.0.1:{free.getsockname()[1]}")
    free.close()
    monkeypatch.setenv("SWANLAB_API_KEY", "not-a-real-key")
    monkeypatch.setenv("SWANLAB_MODE", "cloud")
    journal.begin()
    journal.log(1, 5)
    began = time.monotonic()
    said = journal.deliver()
    assert said is not None
    assert "nothing answers at http://127.0.0.1:" in said
    assert time.monotonic() - began < 15
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


# In the cloud, or rather with a stand-in for it


@pytest.fixture
def cloud(monkeypatch):
    running = Cloud()
    monkeypatch.setenv("SWANLAB_API_HOST", running.url)
    monkeypatch.setenv("SWANLAB_API_KEY", "not-a-real-key")
    monkeypatch.delenv("SWANLAB_MODE")
    yield running
    running.stop()


def points_of(cloud, journal):
    points = cloud.points[journal.run.id].items()
    return {place: NAN if value == "nan" else value for place, value in points if place[0] != "train/global_step"}


def test_cloud_holds_the_journal_also_after_a_resume(cloud, journal):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    assert cloud.states == {journal.run.id: "CRASHED"}
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    assert journal.deliver() is None
    assert points_of(cloud, journal) == first_of_each(journal.directory)
    assert cloud.states == {journal.run.id: "FINISHED"}
    assert cloud.repeated.total() == 0
    assert all(b"not-a-real-key" not in path.read_bytes() for path in journal.directory.rglob("*") if path.is_file())


def test_cloud_gets_once_what_a_killed_session_had_sent(cloud, journal):
    journal.begin()
    journal.log(1, 30)
    journal.end()
    journal.recorder.close()
    program = """
import os, runpy, signal, sys, time
from loopwright.trackers import swanlab
write, count = swanlab.SwanLabCallback.write, 0
def fatal(self, records):
    write(self, records[:20])
    time.sleep(4)
    os.kill(os.getpid(), signal.SIGKILL)
swanlab.SwanLabCallback.write = fatal
sys.argv = ["loopwright", "sync", sys.argv[1]]
runpy.run_module("loopwright", run_name="__main__", alter_sys=True)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(journal.directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(points_of(cloud, journal)) == 60
    deliver_what_is_left(journal.directory)
    assert points_of(cloud, journal) == first_of_each(journal.directory)
    assert cloud.repeated.total() == 0


def test_nothing_counts_as_delivered_before_the_cloud_has_it(cloud, journal):
    cloud.is_sick = True
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    time.sleep(3)
    assert worker.pending() == 5
    cloud.is_sick = False
    worker.finish()
    assert worker.join(30)
    assert worker.pending() == 0
    assert points_of(cloud, journal) == first_of_each(journal.directory)


def test_run_that_began_offline_goes_to_the_cloud_whole_when_that_is_asked_for(cloud, journal, monkeypatch):
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.setenv("SWANLAB_MODE", "cloud")
    journal.begin(first_step=5)
    journal.log(6, 7)
    journal.end()
    assert journal.deliver() is None
    assert points_of(cloud, journal) == first_of_each(journal.directory)


# Nothing lost, nothing twice


def test_confirmed_is_only_what_the_file_holds(journal, directory, monkeypatch):
    monkeypatch.setattr(swanlab_session.RunFile, "scalars", lambda self: [])
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    time.sleep(2)
    assert worker.pending() == 5
    monkeypatch.undo()
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    until = time.monotonic() + 10
    while worker.pending() and time.monotonic() < until:
        time.sleep(0.02)
    assert worker.pending() == 0
    assert len(points_in(directory)) == 15
    worker.finish()
    assert worker.join(20)


@pytest.mark.parametrize("lost", [{"cursor": 0, "reference": "{}"}, {"cursor": 0}, {"cursor": 4}])
def test_what_a_killed_session_had_not_noted_is_there_once(lost, journal, directory):
    journal.begin()
    journal.log(1, 10)
    journal.deliver()
    journal.forget(**lost)
    journal.log(11, 12)
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


@pytest.mark.parametrize("pause", ["0", "0.7"])
def test_delivery_killed_in_the_middle_of_a_batch_repeats_and_loses_nothing(pause, journal, directory):
    journal.begin()
    journal.log(1, 900)
    journal.end()
    journal.recorder.close()
    program = f"""
import os, runpy, signal, sys, time
from loopwright.trackers import swanlab_session
write, count = swanlab_session.Session.write, 0
def fatal(self, record, values):
    global count
    write(self, record, values)
    count += 1
    if count == 650:
        time.sleep({pause})
        os.kill(os.getpid(), signal.SIGKILL)
swanlab_session.Session.write = fatal
sys.argv = ["loopwright", "sync", sys.argv[1]]
runpy.run_module("loopwright", run_name="__main__", alter_sys=True)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(journal.directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(points_in(directory)) < 3 * 900
    deliver_what_is_left(journal.directory)
    assert points_in(directory) == first_of_each(journal.directory)
    assert len(files_in(directory)) == 2


def test_torn_end_of_a_file_is_written_again_elsewhere(journal, directory):
    journal.begin()
    journal.log(1, 50)
    worker = journal.confirm()
    worker.finish()
    assert worker.join(20)
    (path,) = files_in(directory)
    os.truncate(path, path.stat().st_size // 2 + 3)
    held = len(swanlab_files.RunFile(path).scalars())
    assert 0 < held < 200
    journal.forget(cursor=0)
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


@pytest.mark.parametrize("which", ["all", "the second"])
def test_deleted_folders_are_filled_again(which, journal, directory):
    for first in (1, 6):
        journal.begin(first_step=first - 1)
        journal.log(first, first + 4)
        journal.deliver()
    for path in files_in(directory)[0 if which == "all" else 1 :]:
        shutil.rmtree(path.parent)
    journal.log(11)
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


def test_full_disk_loses_nothing(journal, directory, request):
    directory.mkdir()
    mount_small_disk(request, directory, "2m")
    journal.deliver_over_full_disk(directory / "ballast", 6000)
    assert points_in(directory) == first_of_each(journal.directory)


def test_unwritable_directory_loses_nothing(journal, directory):
    directory.write_text("a file stands in the way")
    journal.begin()
    journal.log(1, 5)
    assert journal.deliver() is not None
    directory.unlink()
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


def test_abandoned_session_writes_nothing_more(journal, directory):
    journal.begin()
    journal.log(1, 5)
    worker = journal.confirm()
    session = worker._sink._session
    with JournalReader(journal.directory) as reader:
        late = reader.records()[-1]
    session._known = swanlab_files.Points()
    session.write(late, {"late": 1.0})
    worker._sink.abandon()
    worker.stop()
    assert worker.join(5)
    time.sleep(1)
    assert ("late", 5) not in points_in(directory)
    assert not session.run.alive
    journal.end()
    assert journal.deliver() is None
    assert points_in(directory) == first_of_each(journal.directory)


def test_contradiction_keeps_the_first_value_and_is_said(journal, directory):
    journal.begin()
    whereabouts = journal.log_past(5, 8)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5, resumed_at=whereabouts)
    journal.log(6, 9, loss=-1.0)
    journal.end()
    assert journal.deliver() is None
    found = points_in(directory)
    assert found["train/loss", 7] == 1 / 7
    assert found["train/loss", 9] == -1.0
    assert config_of(files_in(directory)[-1])["loopwright/rewound_to_step"] == 6


def test_a_later_sync_finds_folder_and_project_from_elsewhere(journal, monkeypatch, tmp_path):
    monkeypatch.setenv("SWANLAB_LOG_DIR", "beside")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    journal.log(6, 7)
    journal.end()
    journal.recorder.close()
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    deliver_what_is_left(journal.directory)
    assert points_in(tmp_path / "here" / "beside") == first_of_each(journal.directory)
    assert {start_of(path).project for path in files_in(tmp_path / "here" / "beside")} == {"here"}


# Trainings


def test_training_reports_without_a_word_from_swanlab(tmp_path, directory, capfd):
    trainer = build(tmp_path / "out", report_to="swanlab", run_name="demo", tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()
    assert points_in(directory) == first_of_each(tmp_path / "out")
    said = capfd.readouterr()
    assert "swanlab" not in (said.out + said.err).lower()


def run_program(text, tmp_path):
    """Run a program of its own; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OUT": str(tmp_path / "out")}
    finished = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def test_swanlab_log_of_a_callback_lands_in_the_run(tmp_path, directory, monkeypatch):
    monkeypatch.setenv("SWANLAB_PROJECT", "vision")
    said = run_program(
        """
import os, sys
import swanlab
from loopwright import TrainerCallback
from tests.trackers.swanlab_service import Cloud
from tests.trackers.trainings import build

class LogsItself(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        swanlab.log({"mine": state.global_step}, step=state.global_step)

hook = sys.excepthook
trainer = build(os.environ["OUT"], report_to="swanlab", run_name="demo", callbacks=[LogsItself()])
trainer.train()
trainer.reporting.close()
assert sys.excepthook is hook
assert not swanlab.has_run()
assert os.environ["SWANLAB_PROJECT"] == "vision"
""",
        tmp_path,
    )
    found = points_in(directory)
    mine = {place: found.pop(place) for place in list(found) if place[0] == "mine"}
    assert mine == {("mine", step): step for step in range(1, 13)}
    assert found == first_of_each(tmp_path / "out")
    assert "swanlab:" not in said


def test_run_of_the_program_is_used_and_goes_on(tmp_path, directory):
    run_program(
        """
import os
import swanlab
from tests.trackers.swanlab_service import Cloud
from tests.trackers.trainings import build
run = swanlab.init(project="theirs", name="ours", config={"theirs": 1})
trainer = build(os.environ["OUT"], report_to="swanlab", run_name="unused")
trainer.train()
trainer.reporting.close()
assert swanlab.get_run() is run and run.alive
swanlab.log({"after": 1.0}, step=100)
swanlab.finish()
""",
        tmp_path,
    )
    (path,) = files_in(directory)
    assert start_of(path).name == "ours"
    found = points_in(directory)
    assert found.pop(("after", 100)) == 1.0
    assert {place: value for place, value in found.items() if not place[0].startswith("__swanlab__")} == first_of_each(
        tmp_path / "out"
    )
    config = config_of(path)
    assert config["theirs"] == 1
    assert config["run_name"] == "unused"


class MySwanLab(SwanLabCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs={**logs, "doubled": 2}, **kwargs)


def test_subclass_may_hand_on_other_logs(tmp_path, directory):
    trainer = build(tmp_path / "out", callbacks=[MySwanLab()])
    trainer.train()
    trainer.reporting.close()
    assert [place for place in points_in(directory) if place[0] == "train/doubled"] == [
        ("train/doubled", step) for step in range(1, 13)
    ]
