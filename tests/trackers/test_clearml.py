"""ClearML's offline folders hold what the journal holds, and can be imported; its server gets each point once."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile

import pytest

from loopwright.errors import ArgumentError
from loopwright.integrations import ClearMLCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import clearml_session, clearml_task
from tests.trackers.clearml_service import Cloud
from tests.trackers.disks import mount_small_disk
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.clearml import (
    NO_STEP,
    events_in,
    folders_in,
    parameters_in,
    points_in,
    points_of_journal,
    task_in,
    zip_is_whole,
)
from tests.trackers.trainings import build


class Journal(ServiceJournal):
    """A journal of one run that reports to ClearML."""

    tracker_class = ClearMLCallback
    age_seconds = 100.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the sessions go, and no variable from elsewhere."""
    for name in [name for name in os.environ if name.startswith("CLEARML_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "no.conf"))
    if "clearml" in sys.modules:  # a session that hangs in another test's thread stays the process's current one
        monkeypatch.setattr(sys.modules["clearml"].Task, "_Task__main_task", None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo")


def only_folder(cache):
    (folder,) = folders_in(cache)
    return folder


def values_in(folder):
    return {(event["metric"], event["variant"], event["iter"]): event["value"] for event in events_in(folder)}


def run_program(text, **variables):
    """Run a program of its own; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    finished = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


# Points


def test_points_are_those_of_the_journal_with_their_times(journal, cache, tmp_path):
    journal.begin()
    journal.log(1, 300)
    journal.note(Kind.LOG, 300, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5, "dogs": 0.75}, "epoch": 3.0, "x": "half"})
    journal.note(Kind.PREDICTION, 300, {"test_loss": 0.5})
    journal.note(Kind.LOG, 300, {"train_runtime": 3.5, "train_loss": 0.5, "epoch": 3.5})
    journal.end()
    assert journal.deliver() is None
    folder = only_folder(cache)
    assert points_in(folder) == points_of_journal(journal.directory)
    found = values_in(folder)
    assert found["train", "epoch", 300] == 3.0
    assert found["eval", "f1/cats", 300] == 0.5
    assert found["test", "loss", 300] == 0.5
    assert found["Summary", "epoch", NO_STEP] == 3.5
    # Nothing of the delivery process, nothing elsewhere; each line reached the file in one write.
    assert zip_is_whole(folder)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"task.json", "metrics.jsonl"}
    assert list((tmp_path / "here").iterdir()) == []
    assert max(map(len, (folder / "metrics.jsonl").read_bytes().splitlines())) < 8192


def test_odd_values_and_names_arrive_and_none_becomes_zero(journal, cache):
    journal.begin()
    odd = {"loss": math.nan, "up": math.inf, "eval_down": -math.inf, "huge": -(10**400), "wide": 1e300, "deep": -1e300}
    journal.log(1, **odd, large=2**70, yes=True, none=None, many=[1])
    journal.log(2, **{"eval_/a b/": 1.0, "x" * 9000: 2.0, "eval_": 3.0, "größe.$ü": 4.0})
    journal.note(Kind.LOG, 2, {"train_loss": math.nan, "train_runtime": 1.0})
    journal.end()
    assert journal.deliver() is None
    assert values_in(only_folder(cache)) == {
        ("not finite", "train/loss nan", 1): 1.0,
        ("not finite", "train/up inf", 1): 1.0,
        ("not finite", "eval/down -inf", 1): 1.0,
        ("not finite", "train/huge -inf", 1): 1.0,
        ("not finite", "train/wide above 3.4e38", 1): 1.0,
        ("not finite", "train/deep below -3.4e38", 1): 1.0,
        ("train", "large", 1): 2.0**70,
        ("train", "yes", 1): 1.0,
        ("eval", "/a b/", 2): 1.0,
        ("train", "x" * 9000, 2): 2.0,
        ("eval", "", 2): 3.0,
        ("train", "größe.$ü", 2): 4.0,
        ("not finite", "Summary/train_loss nan", 2): 1.0,
        ("Summary", "train_runtime", NO_STEP): 1.0,
    }


# The task


def test_task_has_name_project_and_parameters_and_says_how_it_ended(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("CLEARML_PROJECT", "vision")
    monkeypatch.setenv("CLEARML_TASK", "mine")
    arguments = {"learning_rate": 0.1, "adam_betas": [0.9, 0.999], "push_token": "***"}
    journal = Journal(tmp_path / "out", name="demo", arguments=arguments, parameters={"layers": 3, **arguments})
    journal.begin()
    journal.log(1)
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    folder = only_folder(cache)
    task, parameters = task_in(folder), parameters_in(folder)
    assert (task["name"], task["project_name"], task["id"]) == ("mine", "vision", f"offline-{journal.run.id}")
    assert parameters["Transformers/learning_rate"] == "0.1"
    assert parameters["Transformers/adam_betas"] == "[0.9, 0.999]"
    assert parameters["loopwright/run_id"] == journal.run.id
    assert parameters["loopwright/status"] == "failed"
    assert task["configuration"]["Model Configuration"]["value"].split() == ["layers", "=", "3"]


def test_names_by_default_and_trials_and_branches_are_tasks_of_their_own(tmp_path, cache):
    plain = Journal(tmp_path / "plain", name="demo")
    branch = Journal(tmp_path / "branch", name="demo", parent_id="ab" * 16, parent_step=7)
    trial = Journal(tmp_path / "trial", name="demo", trial_name="trial-3", trial_parameters={"learning_rate": 0.3})
    for journal in (plain, branch, trial):
        journal.begin()
        journal.log(8, 9)
        journal.end()
        assert journal.deliver() is None
    found = {task_in(folder)["id"].removeprefix("offline-"): folder for folder in folders_in(cache)}
    assert {task_in(folder)["project_name"] for folder in found.values()} == {"HuggingFace Transformers"}
    names = [task_in(found[journal.run.id])["name"] for journal in (plain, branch, trial)]
    assert names == ["Trainer", "Trainer", "Trainer-trial-3"]
    assert parameters_in(found[branch.run.id])["loopwright/parent_run_id"] == "ab" * 16
    assert parameters_in(found[branch.run.id])["loopwright/parent_step"] == "7"
    assert parameters_in(found[trial.run.id])["Transformers/learning_rate"] == "0.3"


def test_sessions_are_in_output_dir_by_default(journal, monkeypatch):
    monkeypatch.delenv("CLEARML_CACHE_DIR")
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    assert points_in(only_folder(journal.directory / "clearml")) == points_of_journal(journal.directory)


def test_a_later_sync_finds_the_folder_from_elsewhere(journal, monkeypatch, tmp_path):
    monkeypatch.setenv("CLEARML_CACHE_DIR", "beside")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    journal.log(6, 7)
    journal.end()
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    assert journal.deliver() is None
    assert points_in(only_folder(tmp_path / "here" / "beside")) == points_of_journal(journal.directory)


@pytest.mark.parametrize("name", ["CLEARML_OFFLINE_MODE", "CLEARML_LOG_MODEL"])
def test_variable_that_is_neither_yes_nor_no_is_said(name, monkeypatch):
    monkeypatch.setenv(name, "perhaps")
    with pytest.raises(ArgumentError, match=name):
        ClearMLCallback().why_off()


@pytest.mark.parametrize(("text", "is_offline"), [("2.23", True), ("true", True), ("0", False), ("off", False)])
def test_offline_mode_is_a_flag_or_a_version(text, is_offline, monkeypatch):
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", text)
    assert ClearMLCallback()._asked_offline() is is_offline


@pytest.mark.parametrize("wanted", ["true", None])
def test_checkpoints_are_artifacts_where_that_is_asked_for(wanted, journal, cache, monkeypatch):
    if wanted is not None:
        monkeypatch.setenv("CLEARML_LOG_MODEL", wanted)
    journal.begin()
    journal.log(1)
    checkpoint = journal.directory / "checkpoint-1"
    (checkpoint / "inner").mkdir(parents=True)
    (checkpoint / "weights.bin").write_bytes(os.urandom(50_000))
    (checkpoint / "inner" / "more.txt").write_text("more")
    for _ in range(2):  # the second replaces the first
        journal.note(Kind.CHECKPOINT, 1, {"path": "checkpoint-1"})
    journal.log(2)
    journal.end()
    assert journal.deliver() is None
    folder = only_folder(cache)
    assert points_in(folder) == points_of_journal(journal.directory)
    artifacts = task_in(folder)["execution"]["artifacts"]
    assert [one["key"] for one in artifacts] == ([] if wanted is None else ["checkpoint-1"])
    if wanted is not None:
        assert str(journal.directory) not in artifacts[0]["type_data"]["preview"]
        with zipfile.ZipFile(artifacts[0]["uri"]) as packed:
            held = {name: packed.read(name) for name in packed.namelist()}
        assert held == {
            "weights.bin": (checkpoint / "weights.bin").read_bytes(), "inner/more.txt": b"more",
        }  # fmt: skip
        assert zip_is_whole(folder)


# Nothing lost, nothing twice


def test_resumed_run_goes_on_in_the_same_folder_and_one_zip_has_it_all(journal, cache):
    for first in (1, 6):
        journal.begin(first_step=first - 1)
        journal.log(first, first + 4)
        journal.end(Status.FAILED if first == 1 else Status.COMPLETED)
        assert journal.deliver() is None
        assert zip_is_whole(only_folder(cache))
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)


@pytest.mark.parametrize("lost", [{"cursor": 0, "reference": "{}"}, {"cursor": 0}, {"cursor": 4}])
def test_what_a_killed_session_had_not_noted_is_there_once(lost, journal, cache):
    journal.begin()
    journal.log(1, 700)
    journal.deliver()
    journal.forget(**lost)
    journal.log(701, 702)
    journal.end()
    assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)


def test_kill_after_the_first_of_many_batches_that_are_there_repeats_nothing(journal, cache):
    journal.begin()
    journal.log(1, 1200)
    journal.deliver()
    journal.forget(cursor=0, reference="{}")
    worker = journal.start_worker()
    worker.finish()
    assert worker.join(30)
    with JournalReader(journal.directory) as reader:
        assert len(reader.records()) == 1200
    tracker = ClearMLCallback
    write, seen = tracker.write, []

    def only_one(self, records):
        if seen:
            raise SystemExit("killed")
        seen.append(len(records))
        write(self, records)

    journal.forget(cursor=0, reference="{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker, "write", only_one)
        journal.deliver()
    assert seen == [500]
    journal.end()
    assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)


def test_delivery_killed_in_the_middle_of_a_batch_repeats_and_loses_nothing(journal, cache):
    journal.begin()
    journal.log(1, 900)
    journal.end()
    journal.recorder.close()
    program = """
import os, runpy, signal, sys
from loopwright.trackers import clearml_session
write, count = clearml_session.OfflineSession._write_line, 0
def fatal(self, events, sequence):
    global count
    write(self, events, sequence)
    count += 1
    if count == 60:
        with self.folder.metrics.open("a") as file:
            file.write('[{"timestamp": 1, "type": "trai')
        os.kill(os.getpid(), signal.SIGKILL)
clearml_session.OfflineSession._write_line = fatal
sys.argv = ["loopwright", "sync", sys.argv[1]]
runpy.run_module("loopwright", run_name="__main__", alter_sys=True)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(journal.directory)], capture_output=True, text=True, timeout=90, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    torn = (only_folder(cache) / "metrics.jsonl").read_text()
    assert torn.endswith("trai")
    assert 0 < torn.count('"loss"') < 900
    assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)
    assert zip_is_whole(only_folder(cache))


def test_what_somebody_deletes_is_there_again(journal, cache):
    folder = cache / "offline" / f"offline-{journal.run.id}"
    deletions = (
        lambda: shutil.rmtree(folder),  # the zip has it
        lambda: (shutil.rmtree(folder), folder.with_name(f"{folder.name}.zip").unlink()),
        lambda: os.truncate(folder / "metrics.jsonl", 500),
        lambda: (folder / "task.json").write_text("{torn"),
    )
    for number, delete in enumerate(deletions):
        journal.begin(first_step=5 * number)
        journal.log(5 * number + 1, 5 * number + 5)
        journal.end()
        assert journal.deliver() is None
        assert points_in(only_folder(cache)) == points_of_journal(journal.directory), number
        delete()
    journal.begin(first_step=20)
    journal.log(21)
    journal.end()
    assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)
    assert parameters_in(only_folder(cache))["loopwright/run_id"] == journal.run.id


def test_full_disk_loses_nothing(journal, cache, request):
    cache.mkdir()
    mount_small_disk(request, cache, "4m")
    journal.deliver_over_full_disk(cache / "ballast", 2000)
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)


def test_contradiction_takes_back_what_was_shown(journal, cache):
    journal.begin()
    whereabouts = journal.log_past(5, 8)
    journal.note(Kind.LOG, 8, {"train_runtime": 1.0, "train_loss": 0.5})
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    journal.begin(first_step=5, resumed_at=whereabouts)
    journal.log(6, 9, loss=-1.0)
    journal.note(Kind.LOG, 9, {"train_runtime": 2.0, "train_loss": 0.25})
    journal.end()
    assert journal.deliver() is None
    folder = only_folder(cache)
    assert points_in(folder) == points_of_journal(journal.directory)
    assert values_in(folder)["train", "loss", 7] == -1.0
    assert parameters_in(folder)["loopwright/rewound_to_step"] == "6"


# Online, or rather with a stand-in


@pytest.fixture
def cloud(monkeypatch):
    running = Cloud()
    for name in ("API", "WEB", "FILES"):
        monkeypatch.setenv(f"CLEARML_{name}_HOST", running.url)
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "an-access-key")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "not-a-real-secret")
    monkeypatch.delenv("CLEARML_OFFLINE_MODE")
    yield running
    running.stop()


def newest_of_each(journal):
    """Return the journal's points as a server keeps them: of the same title, series and step the newest."""
    return {point[:3]: point[3:] for point in points_of_journal(journal.directory)}


def test_server_holds_the_journal_also_after_a_resume(cloud, journal, cache):
    journal.begin()
    journal.log(1, 300)
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    ((task_id, task),) = cloud.tasks.items()
    assert (task["status"], task["name"], task["project"]) == ("failed", "Trainer", "project:HuggingFace Transformers")
    journal.begin(first_step=300)
    journal.log(301, 305)
    journal.note(Kind.LOG, 305, {"train_runtime": 3.5, "epoch": 1.0})
    journal.end()
    assert journal.deliver() is None
    assert cloud.events == {task_id: newest_of_each(journal)}
    assert cloud.repeated.total() == 0
    assert cloud.tasks[task_id]["status"] == "completed"
    assert cloud.tasks[task_id]["hyperparams"]["loopwright"]["run_id"]["value"] == journal.run.id
    assert folders_in(cache) == []
    assert all(b"not-a-real-secret" not in path.read_bytes() for path in journal.directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("status", "said"),
    [(Status.STOPPED, "completed"), (Status.PREEMPTED, "stopped"), (Status.KILLED, "stopped")],
)
def test_task_on_a_server_ends_as_the_training_did(status, said, cloud, journal):
    journal.begin()
    journal.log(1)
    journal.end(status)
    assert journal.deliver() is None
    assert [task["status"] for task in cloud.tasks.values()] == [said]


def test_nothing_counts_as_delivered_before_the_server_has_it(cloud, journal):
    cloud.is_sick = True
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    until = time.monotonic() + 20
    while not cloud.calls["events.add_batch"] and time.monotonic() < until:
        time.sleep(0.02)
    assert worker.pending() == 5
    cloud.is_sick = False
    worker.finish()
    assert worker.join(30)
    assert worker.pending() == 0
    (points,) = cloud.events.values()
    assert points == newest_of_each(journal)


def test_task_that_was_deleted_on_the_server_is_made_again_whole(cloud, journal):
    journal.begin()
    journal.log(1, 5)
    assert journal.deliver() is None
    cloud.tasks.clear()
    cloud.events.clear()
    journal.log(6)
    journal.end()
    assert journal.deliver() is None
    (points,) = cloud.events.values()
    assert points == newest_of_each(journal)


def test_run_goes_on_offline_unless_a_server_is_insisted_on(cloud, journal, cache, monkeypatch):
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.delenv("CLEARML_OFFLINE_MODE")
    journal.begin(first_step=5)
    journal.log(6, 7)
    journal.deliver()
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)
    assert cloud.calls.total() == 0
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "0")
    journal.begin(first_step=7)
    journal.log(8)
    journal.end()
    assert journal.deliver() is None
    (points,) = cloud.events.values()
    assert points == newest_of_each(journal)
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    journal.begin(first_step=8)
    journal.log(9)
    journal.end()
    assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)


def test_task_of_an_agent_is_used_and_not_ended(cloud, journal, monkeypatch):
    cloud.calls["tasks.create"] += 1
    cloud.answer("tasks.create", json.dumps({"name": "theirs"}).encode())
    cloud.tasks["task0"]["hyperparams"] = {"Args": {"mine": {"section": "Args", "name": "mine", "value": "1"}}}
    monkeypatch.setenv("CLEARML_TASK_ID", "task0")
    journal.begin()
    journal.log(1, 5)
    journal.end()
    assert journal.deliver() is None
    assert cloud.events == {"task0": newest_of_each(journal)}
    assert len(cloud.tasks) == 1
    assert cloud.tasks["task0"]["status"] == "created"
    assert (
        {"Args", "Transformers", "loopwright"} >= cloud.tasks["task0"]["hyperparams"].keys() >= {"Args", "loopwright"}
    )


def test_checkpoint_is_on_the_files_server(cloud, journal, monkeypatch):
    monkeypatch.setenv("CLEARML_LOG_MODEL", "1")
    journal.begin()
    (journal.directory / "checkpoint-1").mkdir()
    (journal.directory / "checkpoint-1" / "weights.bin").write_bytes(b"weights")
    journal.note(Kind.CHECKPOINT, 1, {"path": "checkpoint-1"})
    journal.end()
    assert journal.deliver() is None
    (task,) = cloud.tasks.values()
    (artifact,) = task["execution"]["artifacts"]
    ((name, content),) = cloud.files.items()
    assert artifact["uri"].replace("%20", " ").endswith(name)
    assert b"weights.bin" in content


@pytest.mark.parametrize("kind", ["dead", "hanging"])
def test_server_that_is_away_is_noticed_soon_and_loses_nothing(kind, journal, cache, cloud, monkeypatch):
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    if kind == "hanging":
        silent.listen()
    monkeypatch.setenv("CLEARML_API_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert sum(clearml_session._ANSWER_SECONDS) < 15
    monkeypatch.setattr(clearml_session, "_ANSWER_SECONDS", (1.0, 1.0))
    journal.begin()
    journal.log(1, 5)
    began = time.monotonic()
    worker = journal.start_worker()
    assert worker.has_opened.wait(20)
    assert "nothing answers at http://127.0.0.1:" in worker.error
    assert time.monotonic() - began < 5
    worker.stop()
    assert worker.join(20)
    silent.close()
    monkeypatch.setenv("CLEARML_API_HOST", cloud.url)
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    (points,) = cloud.events.values()
    assert points == newest_of_each(journal)


def test_server_that_hangs_in_the_middle_is_not_waited_for_without_end(journal, cloud, monkeypatch):
    monkeypatch.setattr(clearml_task._clients().online, "_session_timeout", (1.0, 1.0))
    journal.begin()
    journal.log(1, 5)
    worker = journal.confirm()
    cloud.hang_seconds = 5.0
    journal.log(6)
    began = time.monotonic()
    while worker.error is None and time.monotonic() - began < 20:
        time.sleep(0.02)
    assert worker.error is not None
    assert time.monotonic() - began < 10
    cloud.hang_seconds = 0.0
    worker.finish()
    assert worker.join(30)
    journal.end()
    assert journal.deliver() is None
    (points,) = cloud.events.values()
    assert points == newest_of_each(journal)


def test_without_credentials_the_run_is_offline_and_said_so(journal, cache, monkeypatch, caplog):
    monkeypatch.delenv("CLEARML_OFFLINE_MODE")
    for _ in range(2):
        journal.begin()
        journal.log(1, 5)
        journal.end()
        assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)
    (line,) = [line for line in caplog.messages if "no credentials" in line]
    assert f"Task.import_offline_session('{only_folder(cache)}')" in line


def test_server_that_is_insisted_on_without_credentials_waits(journal, cache, monkeypatch):
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "0")
    journal.begin()
    journal.log(1, 5)
    assert "set CLEARML_API_ACCESS_KEY" in journal.deliver()
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    assert points_in(only_folder(cache)) == points_of_journal(journal.directory)


def test_the_sdk_imports_the_session_with_points_parameters_and_checkpoints(cloud, journal, cache, monkeypatch):
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_LOG_MODEL", "1")
    monkeypatch.setenv("CLEARML_TASK", "sent later")
    for first in (1, 201):
        journal.begin(first_step=first - 1)
        journal.log(first, first + 199)
        (journal.directory / f"checkpoint-{first}").mkdir()
        (journal.directory / f"checkpoint-{first}" / "weights.bin").write_bytes(b"weights")
        journal.note(Kind.CHECKPOINT, first, {"path": f"checkpoint-{first}"})
        journal.end()
        assert journal.deliver() is None
    from clearml import Task
    from clearml.backend_interface.base import InterfaceBase

    folder = only_folder(cache)
    monkeypatch.setattr(InterfaceBase, "_offline_mode", False)  # the SDK was imported for tests without a server
    monkeypatch.setattr(InterfaceBase, "_default_session", clearml_task.connect())
    assert Task.import_offline_session(f"{folder}.zip") == "task0"
    assert cloud.events == {"task0": newest_of_each(journal)}
    task = cloud.tasks["task0"]
    assert (task["name"], task["status"]) == ("sent later", "completed")
    assert task["hyperparams"]["loopwright"]["status"]["value"] == "completed"
    assert [one["key"] for one in task["execution"]["artifacts"]] == ["checkpoint-1", "checkpoint-201"]
    assert sorted(name.rpartition("/")[2] for name in cloud.files) == ["checkpoint-1.zip", "checkpoint-201.zip"]


# Trainings


class MyClearML(ClearMLCallback):
    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        self._clearml_task.update_parameters({"Mine/answer": 42})
        assert self._clearml.Task.current_task() is self._clearml_task

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs={**logs, "doubled": 2}, **kwargs)


def test_subclass_may_override_setup_and_hand_on_other_logs(tmp_path, cache, capfd):
    trainer = build(tmp_path / "out", callbacks=[MyClearML()], tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()
    folder = only_folder(cache)
    found = values_in(folder)
    assert [place[2] for place in found if place[1] == "doubled"] == list(range(1, 13))
    assert parameters_in(folder)["Mine/answer"] == "42"
    assert zip_is_whole(folder)
    said = capfd.readouterr()
    assert "clearml" not in (said.out + said.err).lower().replace(str(tmp_path).lower(), "")


def test_delivery_process_does_it_all_and_the_program_ends_at_once(tmp_path, cache):
    said = run_program(
        """
import os, sys, time
from tests.trackers.trainings import build

trainer = build(os.environ["OUT"], report_to="clearml", run_name="demo", tracker_close_timeout=60)
trainer.train()
trainer.reporting.close()
assert "clearml" not in sys.modules
print("status 0 at", time.time())
""",
        OUT=str(tmp_path / "out"),
    )
    assert time.time() - float(said.partition("status 0 at ")[2].split()[0]) < 10
    folder = only_folder(cache)
    assert points_in(folder) == points_of_journal(tmp_path / "out")
    assert zip_is_whole(folder)


def test_task_of_the_program_is_used_and_goes_on(tmp_path, cache):
    run_program(
        """
import os, signal, sys
import clearml
from loopwright import TrainerCallback
from tests.trackers.trainings import build
hooks = (sys.excepthook, sys.exit, signal.getsignal(signal.SIGTERM), os.fork)

class LogsItself(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        logger = clearml.Task.current_task().get_logger()
        logger.report_scalar("mine", "step", state.global_step, iteration=state.global_step)

def train(name):
    trainer = build(os.environ["OUT"] + name, report_to="clearml", callbacks=[LogsItself()], tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()

train("/ours")
assert (sys.excepthook, sys.exit, signal.getsignal(signal.SIGTERM), os.fork) == hooks
assert clearml.Task.current_task() is None

theirs = clearml.Task.init(
    "their project", "their task", auto_connect_arg_parser=False, auto_resource_monitoring=False,
    auto_connect_frameworks={"detect_repository": False},
)
theirs.update_parameters({"Args/mine": 1})
train("/theirs")
assert clearml.Task.current_task() is theirs
theirs.get_logger().report_scalar("after", "all", 1.0, iteration=100)
theirs.close()
""",
        OUT=str(tmp_path),
    )
    found = {task_in(folder)["name"]: folder for folder in folders_in(cache)}
    found |= {"Trainer": only_folder(cache)} if len(found) == 1 else {}
    for name, out in (("Trainer", "ours"), ("their task", "theirs")):
        points = points_in(found[name])
        mine = {point for point in points if point[0] == "mine"}
        assert {point[2:3] + point[4:] for point in mine} == {(step, step) for step in range(1, 13)}
        others = {point: count for point, count in points.items() if point[0] not in {"mine", "after"}}
        assert others == points_of_journal(tmp_path / out)
    assert ("after", "all", 100) in values_in(found["their task"])
    assert parameters_in(found["their task"])["Args/mine"] == "1"
    assert "loopwright/status" not in parameters_in(found["their task"])
    assert zip_is_whole(found["their task"])


def test_task_of_the_program_on_a_server_is_used_and_not_ended(tmp_path, cloud, monkeypatch):
    from clearml import Task
    from clearml.backend_interface.base import InterfaceBase

    monkeypatch.setattr(InterfaceBase, "_offline_mode", False)  # the SDK was imported for tests without a server
    monkeypatch.setattr(InterfaceBase, "_default_session", clearml_task.connect())
    theirs = Task.create(project_name="their project", task_name="their task")
    theirs.update_parameters({"Args/mine": 1})
    theirs.started()
    monkeypatch.setattr(Task, "_Task__main_task", theirs)
    trainer = build(tmp_path / "out", report_to="clearml", tracker_open_timeout=30, tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()
    assert Task.current_task() is theirs
    points = points_of_journal(tmp_path / "out")
    assert cloud.events == {theirs.id: {point[:3]: point[3:] for point in points}}
    assert cloud.tasks[theirs.id]["status"] == "in_progress"
    assert cloud.tasks[theirs.id]["hyperparams"].keys() == {"Args", "Transformers", "loopwright"}
