"""Comet's archives, and a stand-in for its server, hold what the journal holds: after kills, resumes and outages."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter

import pytest

from loopwright.delivery.store import read_delivered
from loopwright.integrations import CometCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import comet_archives, comet_choices, comet_sdk, comet_session
from loopwright.trackers.placement import place
from tests.trackers.comet_service import KEY, Server
from tests.trackers.disks import fill, mount_small_disk
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.comet_ml import archives, expected, files_in, messages, others_in, payloads, points_in
from tests.trackers.trainings import build

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CHOSEN = "chosen" * 6


class Journal(ServiceJournal):
    """A journal of one run that reports to Comet."""

    tracker_class = CometCallback
    age_seconds = 100.0

    def checkpoint(self, step: int, **files: bytes) -> None:
        """Record a checkpoint that holds `files`."""
        path = self.directory / f"checkpoint-{step}"
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
        self.note(Kind.CHECKPOINT, step, {"path": path.name})

    def remembered(self):
        return read_delivered(self.directory, self.run.id, "comet_ml").reference


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Where the archives go, and no variable from elsewhere."""
    for name in [name for name in os.environ if name.startswith("COMET_")]:
        monkeypatch.delenv(name)
    for name, text in {
        "COMET_CONFIG": str(tmp_path / "no-config"),
        "COMET_DISABLE_AUTO_LOGGING": "1",
        "COMET_HTTP_SESSION_RETRY_TOTAL": "0",
        "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "0",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(tmp_path / "comet"),
        "COMET_TIMEOUT_HTTP": "2",
    }.items():
        monkeypatch.setenv(name, text)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "comet"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo")


def about(path):
    """Return what Comet's own file says of an archive."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("experiment.json"))


def assert_equal(directory, journal):
    assert points_in(directory) == expected(journal.directory)


# Points


def test_points_are_those_of_the_journal_with_their_steps_epochs_and_times(journal, directory):
    journal.begin()
    journal.log(1, 30)
    journal.note(Kind.LOG, 30, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5}, "note": "half way", "epoch": 3.0})
    journal.note(Kind.PREDICTION, 30, {"test_loss": 0.5})
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)
    found = points_in(directory)
    assert found["eval/f1/cats", 30] == found["test/loss", 30] == Counter(["0.5"])
    losses = [one for one in payloads(directory, "metric_msg") if one["metric"]["metricName"] == "train/loss"]
    assert [one["metric"]["epoch"] for one in losses] == [step / 10 for step in range(1, 31)]
    with JournalReader(journal.directory) as reader:
        times = [int(one.time * 1000) for one in reader.records() if "loss" in one.values]
    assert [one["local_timestamp"] for one in losses] == times


def test_odd_values_and_names_arrive(journal, directory):
    journal.begin()
    journal.log(1, loss=math.nan, up=math.inf, down=-math.inf, huge=10**400, large=2**70, yes=True, none=None, many=[1])
    journal.log(2, **{"eval_ a/b ": 1.0, "x" * 150 + "1": 2.0, "x" * 150 + "2": 3.0})
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)
    found = {name: values for (name, _), values in points_in(directory).items()}
    assert [str(*found[f"train/{name}"]) for name in ("loss", "up", "down", "huge", "large", "yes")] == [
        "nan", "inf", "-inf", "inf", repr(2.0**70), "1.0",
    ]  # fmt: skip
    assert sorted(len(name) for name in found)[-2:] == [100, 100], "two curves, though Comet cuts names off"


def test_archive_holds_nothing_of_the_delivery_process(journal, directory, tmp_path):
    journal.begin()
    journal.log(1)
    journal.end()
    journal.deliver()
    (path,) = archives(directory)
    assert {one["type"] for one in messages(path)} == {"log_other", "metric_msg"}
    assert {one["metric"]["metricName"] for one in payloads(directory, "metric_msg")} == {
        "train/loss", "train/learning_rate", "train/epoch",
    }  # fmt: skip
    assert list(directory.iterdir()) == [path], "no unfinished one"
    assert list((tmp_path / "here").iterdir()) == []


# The experiment


def test_experiment_has_name_project_parameters_and_origin(tmp_path, directory, monkeypatch):
    monkeypatch.setenv("COMET_PROJECT_NAME", "vision")
    monkeypatch.setenv("COMET_WORKSPACE", "team")
    arguments = {"learning_rate": 0.1, "betas": [0.9, 0.999], "hub_token": "<HUB_TOKEN>"}
    journal = Journal(tmp_path / "out", name="demo", arguments=arguments, parameters={"layers": {"n": 3}, **arguments})
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    (path,) = archives(directory)
    said = about(path)
    assert (said["offline_id"], said["project_name"], said["workspace"]) == (journal.run.id, "vision", "team")
    assert said["start_time"] == int(journal.run.created_at * 1000)
    assert said["resume_strategy"] == "get_or_create"
    sent = payloads(directory, "parameter_msg")
    single = {one["param"]["paramName"]: one["param"]["paramValue"] for one in sent if "param" in one}
    assert single == {"args|learning_rate": 0.1, "args|hub_token": "<HUB_TOKEN>", "config|layers|n": 3}
    assert [one["params"]["paramValue"] for one in sent if "params" in one] == [[0.9, 0.999]]
    others = others_in(directory)
    assert (others["Name"], others["Created from"]) == ("demo", "loopwright")
    assert others["loopwright/run_id"] == journal.run.id


@pytest.mark.parametrize(("project", "expected"), [("mine", "mine"), (None, None), ("huggingface", None)])
def test_project_is_the_argument_where_the_variable_is_not_set(project, expected, tmp_path, directory):
    journal = Journal(tmp_path / "out", project=project)
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    (path,) = archives(directory)
    assert about(path)["project_name"] == expected


def test_archives_are_in_output_dir_by_default(journal, monkeypatch):
    monkeypatch.delenv("COMET_OFFLINE_DIRECTORY")
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    assert_equal(journal.directory / "comet", journal)


@pytest.mark.parametrize("status", [one for one in Status if one is not Status.RUNNING])
def test_experiment_says_how_the_training_ended(status, journal, directory):
    journal.begin()
    journal.log(1)
    journal.end(status)
    assert journal.deliver() is None
    assert others_in(directory)["loopwright/status"] == status.value


def test_resumed_run_is_a_second_archive_of_the_same_experiment(journal, directory):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    assert journal.deliver() is None
    assert [about(path)["offline_id"] for path in archives(directory)] == [journal.run.id] * 2
    assert_equal(directory, journal)
    assert others_in(directory)["loopwright/status"] == "completed"


def test_branch_names_its_parent_and_a_trial_its_parameters(tmp_path, directory, monkeypatch):
    monkeypatch.setenv("COMET_EXPERIMENT_KEY", CHOSEN)
    monkeypatch.setenv("COMET_MODE", "get")
    branch = Journal(tmp_path / "branch", name="branch", parent_id="ab" * 16, parent_step=7)
    trial = Journal(tmp_path / "trial", name="search", trial_name="trial-3", trial_parameters={"lr": 0.1})
    plain = Journal(tmp_path / "plain", name="plain")
    found = {}
    for journal in (branch, trial, plain):
        journal.begin()
        journal.log(8, 9)
        journal.end()
        assert journal.deliver() is None
        (path,) = set(archives(directory)) - set(found)
        found[path] = {
            one["payload"]["key"]: one["payload"]["value"] for one in messages(path) if "key" in one["payload"]
        }
    keys = [(about(path)["offline_id"], about(path)["resume_strategy"]) for path in found]
    assert keys == [(branch.run.id, "get_or_create"), (trial.run.id, "get_or_create"), (CHOSEN, "get")]
    of_branch, of_trial, of_plain = found.values()
    assert (of_branch["loopwright/parent_run_id"], of_branch["loopwright/parent_step"]) == ("ab" * 16, 7)
    assert (of_trial["Name"], of_trial["optimizer_id"]) == ("search-trial-3", "trial-3")
    assert json.loads(of_trial["optimizer_parameters"]) == {"lr": 0.1}
    assert "Name" not in of_plain, "one that is there has a name"


def test_two_trackers_of_one_run_have_a_key_each(journal):
    first, second = comet_choices.own_key(journal.run, ""), comet_choices.own_key(journal.run, "2")
    assert first == journal.run.id != second
    assert len(second) == 32
    assert second.isalnum()


# Variables


@pytest.mark.parametrize("mode", ["create", "get_or_create", "GET"])
def test_mode_is_how_the_archive_is_sent(mode, journal, directory, monkeypatch, caplog):
    monkeypatch.setenv("COMET_MODE", mode)
    monkeypatch.setenv("COMET_EXPERIMENT_KEY", CHOSEN)
    for first in (1, 6):
        journal.begin(first_step=first - 1)
        journal.log(first, first + 4)
        journal.end()
        assert journal.deliver() is None
    found = [about(path)["resume_strategy"] for path in archives(directory)]
    assert found == {"create": ["create", "get_or_create"]}.get(mode, [mode.lower()] * 2)
    assert_equal(directory, journal)
    assert "COMET_MODE" not in caplog.text


@pytest.mark.parametrize(
    ("mode", "where", "hint"),
    [("OFFLINE", "offline", "use COMET_START_ONLINE=0"), ("ONLINE", "online", "use COMET_START_ONLINE=1"),
     ("DISABLED", "off", "use report_to without comet_ml")],
)  # fmt: skip
def test_deprecated_modes_work_and_say_what_to_use(mode, where, hint, journal, directory, monkeypatch, caplog):
    monkeypatch.delenv("COMET_START_ONLINE")
    monkeypatch.setenv("COMET_MODE", mode)
    placed = place(CometCallback())
    assert (placed.place == "off") is (where == "off")
    assert [line for line in caplog.messages if f"COMET_MODE={mode!r} is deprecated: {hint}" in line]
    if where == "off":
        assert placed.reason == "COMET_MODE=DISABLED"
        return
    journal.begin()
    journal.log(1)
    said = journal.deliver()
    assert (said is None) is (where == "offline")
    assert where == "offline" or "there is no API key" in said


def test_unknown_mode_is_said_and_counts_as_the_default(journal, directory, monkeypatch, caplog):
    monkeypatch.setenv("COMET_MODE", "perhaps")
    assert CometCallback().why_off() is None
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)
    assert "COMET_MODE='perhaps': expected one of get_or_create, create, get; taken as get_or_create" in caplog.text


@pytest.mark.parametrize(
    ("variables", "said"),
    [({"COMET_MODE": "get"}, "set COMET_EXPERIMENT_KEY"), ({"COMET_EXPERIMENT_KEY": "short"}, "32 to 50 letters"),
     ({"COMET_EXPERIMENT_KEY": "-" * 40}, "32 to 50 letters"),
     ({"COMET_START_ONLINE": "perhaps"}, "COMET_START_ONLINE"),
     ({"COMET_LOG_ASSETS": "perhaps"}, "COMET_LOG_ASSETS")],
)  # fmt: skip
def test_variables_that_cannot_be_are_named_and_the_training_goes_on(variables, said, tmp_path, monkeypatch, caplog):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    trainer = build(tmp_path / "out", report_to="comet_ml")
    trainer.train()
    trainer.reporting.close()
    assert trainer.state.global_step == 12
    (line,) = [line for line in caplog.messages if "CometCallback is left out" in line]
    assert said in line


@pytest.mark.parametrize(("text", "expected"), [(None, True), ("TRUE", True), ("1", True), ("FALSE", False)])
def test_assets_are_stored_unless_the_variable_says_no(text, expected, monkeypatch):
    if text is not None:
        monkeypatch.setenv("COMET_LOG_ASSETS", text)
    assert CometCallback().wants_checkpoints() is expected


def test_checkpoints_and_event_files_are_in_the_archive(journal, directory):
    journal.begin()
    journal.log(1, 3)
    journal.checkpoint(3, **{"model.bin": b"weights" * 1000, "empty": b""})
    journal.log(4)
    events = journal.directory / "runs" / "events.out.tfevents.1"
    events.parent.mkdir()
    events.write_bytes(b"scalars")
    worker = journal.start_worker()
    until = time.monotonic() + 30
    while worker.pending() > 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert worker.pending() == 1, "the checkpoint is safe, and what came before it"
    worker.finish()
    assert worker.join(20)
    journal.end()
    assert journal.deliver() is None
    stored = {name: content for path in archives(directory) for name, content in files_in(path).items()}
    assert stored == {
        "out/checkpoint-3/model.bin": b"weights" * 1000,
        "out/checkpoint-3/empty": b"",
        "out/runs/events.out.tfevents.1": b"scalars",
    }
    assert_equal(directory, journal)
    assert sum(len(files_in(path)) for path in archives(directory)) == 3, "each once"


def test_no_file_is_stored_where_nobody_wants_them(journal, directory, monkeypatch):
    monkeypatch.setenv("COMET_LOG_ASSETS", "FALSE")
    journal.begin()
    journal.checkpoint(3, model=b"weights")
    (journal.directory / "events.out.tfevents.1").write_bytes(b"scalars")
    journal.end()
    assert journal.deliver() is None
    assert payloads(directory, "file_upload") == []


# Without credentials, without a network


def test_without_a_key_the_experiment_is_offline_and_said_so_once(journal, directory, monkeypatch, caplog):
    monkeypatch.delenv("COMET_START_ONLINE")
    for first in (1, 6):
        journal.begin()
        journal.log(first, first + 4)
        journal.end()
        assert journal.deliver() is None
    assert_equal(directory, journal)
    (line,) = [line for line in caplog.messages if "no API key" in line]
    assert f"comet upload {directory}/{journal.run.id}-*.zip" in line


def test_online_that_is_asked_for_without_a_key_waits(journal, directory, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "1")
    journal.begin()
    journal.log(1, 5)
    assert "set COMET_API_KEY" in journal.deliver()
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


@pytest.fixture
def server(monkeypatch):
    running = Server()
    monkeypatch.setenv("COMET_URL_OVERRIDE", running.url)
    monkeypatch.setenv("COMET_API_KEY", KEY)
    monkeypatch.delenv("COMET_START_ONLINE")
    yield running
    running.stop()


@pytest.mark.parametrize("kind", ["dead", "hanging"])
def test_server_that_does_not_answer_is_noticed_soon_and_nothing_is_lost(kind, server, journal, monkeypatch):
    if kind == "dead":
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("COMET_URL_OVERRIDE", f"http://127.0.0.1:{free.getsockname()[1]}/clientlib/")
    server.fault = "hang"
    journal.begin()
    journal.log(1, 5)
    began = time.monotonic()
    said = journal.deliver()
    assert "nothing answers at http://127.0.0.1:" in said
    assert time.monotonic() - began < 15
    server.fault = None
    monkeypatch.setenv("COMET_URL_OVERRIDE", server.url)
    journal.begin()
    journal.end()
    assert journal.deliver() is None
    assert server.experiments[journal.run.id].points() == expected(journal.directory)


def test_api_key_that_is_refused_is_in_no_file_and_no_message(server, journal, monkeypatch, caplog):
    monkeypatch.setenv("COMET_API_KEY", "a-key-that-is-refused")
    journal.begin()
    journal.log(1, 5)
    said = journal.deliver()
    assert "InvalidAPIKey" in said
    assert "a-key-that-is-refused" not in said + caplog.text
    files = [path for path in journal.directory.rglob("*") if path.is_file()]
    assert all(b"a-key-that-is-refused" not in path.read_bytes() for path in files)


# Online, or rather with a stand-in for it


def test_server_holds_the_journal_also_after_a_resume(server, journal):
    journal.begin()
    journal.log(1, 5)
    journal.checkpoint(5, model=b"weights")
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    journal.begin(first_step=5)
    journal.log(6, 8)
    journal.log(9, loss=math.nan, up=math.inf, large=2**70)
    journal.end()
    assert journal.deliver() is None
    (experiment,) = server.experiments.values()
    assert experiment.points() == expected(journal.directory)
    assert experiment.files == {"out/checkpoint-5/model": b"weights"}
    assert experiment.others["loopwright/status"] == "completed"
    assert experiment.others["Name"] == "demo"
    assert experiment.is_alive == [True, False, True, False]
    assert journal.remembered()["shown_at"] == f"http://comet.test/me/project/{journal.run.id}"
    assert not list(journal.directory.glob(".comet-*"))
    assert all(KEY.encode() not in path.read_bytes() for path in journal.directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("lost", [{"cursor": 0, "reference": "{}"}, {"cursor": 4}])
def test_server_gets_once_what_a_killed_session_had_not_noted(lost, server, journal):
    journal.begin()
    journal.log(1, 10)
    journal.deliver()
    journal.forget(**lost)
    journal.log(11, 12)
    journal.end()
    assert journal.deliver() is None
    assert server.experiments[journal.run.id].points() == expected(journal.directory)


@pytest.mark.parametrize("fault", ["refuse", "deaf"])
def test_server_that_is_sick_for_a_while_gets_each_point_once(fault, server, journal):
    journal.begin()
    journal.log(1, 5)
    worker = journal.confirm()
    server.fault = fault
    journal.log(6, 9)
    until = time.monotonic() + 15
    while worker.error is None and time.monotonic() < until:
        time.sleep(0.02)
    assert "status code 500" in worker.error or "RetryError" in worker.error or "500" in worker.error
    assert worker.pending() == 4
    server.fault = None
    worker.finish()
    assert worker.join(30)
    assert worker.pending() == 0
    assert server.experiments[journal.run.id].points() == expected(journal.directory)


@pytest.mark.parametrize(
    ("mode", "is_there", "said"),
    [("get", True, None), ("get", False, f"Comet has no experiment {CHOSEN}"), ("create", False, None),
     ("create", True, f"Comet has the experiment {CHOSEN} already"), ("get_or_create", True, None)],
)  # fmt: skip
def test_mode_is_honoured_online(mode, is_there, said, server, tmp_path, monkeypatch):
    monkeypatch.setenv("COMET_EXPERIMENT_KEY", CHOSEN)
    if is_there:
        other = Journal(tmp_path / "other")
        other.begin()
        other.log(1)
        other.end()
        assert other.deliver() is None
    monkeypatch.setenv("COMET_MODE", mode)
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 3)
    found = journal.deliver()
    assert found is None if said is None else said in found
    if said is None:  # and the next session goes on with it
        journal.log(4, 5)
        journal.end()
        assert journal.deliver() is None
        count = len(server.experiments[CHOSEN].metrics)
        assert count == 15 + 3 * is_there


def test_run_that_began_offline_stays_so_and_goes_online_whole_when_that_is_asked_for(server, journal, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.delenv("COMET_START_ONLINE")
    journal.begin(first_step=5)
    journal.log(6, 7)
    assert journal.deliver() is None
    assert server.experiments == {}
    monkeypatch.setenv("COMET_START_ONLINE", "1")
    journal.begin(first_step=7)
    journal.log(8)
    journal.end()
    assert journal.deliver() is None
    assert server.experiments[journal.run.id].points() == expected(journal.directory)


def test_run_that_began_online_goes_on_offline_whole_when_that_is_asked_for(server, journal, directory, monkeypatch):
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    journal.begin(first_step=5)
    journal.log(6, 7)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


def test_archives_are_sent_whole_by_comets_own_command(server, journal, directory, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    journal.begin()
    journal.log(1, 5)
    journal.checkpoint(5, model=b"weights")
    journal.log(6, loss=math.nan, up=math.inf)
    journal.end()
    assert journal.deliver() is None
    from comet_ml.offline import main_upload

    main_upload([str(path) for path in reversed(archives(directory))], force_upload=False)
    (experiment,) = server.experiments.values()
    assert experiment.points() == expected(journal.directory)
    assert experiment.files == {"out/checkpoint-5/model": b"weights"}


# Nothing lost, nothing twice


def test_nothing_counts_as_delivered_before_its_archive_is_there(journal, directory):
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    until = time.monotonic() + 20
    while (worker._sink is None or worker._sink._written == 0) and time.monotonic() < until:
        time.sleep(0.02)
    assert worker.pending() == 5
    assert archives(directory) == []
    worker.finish()
    assert worker.join(20)
    assert worker.pending() == 0
    assert_equal(directory, journal)


def test_long_run_is_sealed_in_parts_of_which_comet_sends_every_point(journal, directory, monkeypatch):
    from comet_ml.config import get_config

    assert get_config()["comet.offline_sampling_size"] > comet_session.MOST_RECORDS
    monkeypatch.setattr(comet_session, "MOST_RECORDS", 40)
    journal.begin()
    journal.log(1, 100)
    worker = journal.start_worker()
    until = time.monotonic() + 20
    while worker.pending() > 20 and time.monotonic() < until:
        time.sleep(0.02)
    assert worker.pending() == 20
    worker.finish()
    assert worker.join(20)
    assert len(archives(directory)) == 3
    assert_equal(directory, journal)


@pytest.mark.parametrize("lost", [{"cursor": 0, "reference": "{}"}, {"cursor": 0}, {"cursor": 4}])
def test_what_a_killed_session_had_not_noted_is_there_once(lost, journal, directory):
    journal.begin()
    journal.log(1, 10)
    journal.deliver()
    journal.forget(**lost)
    journal.log(11, 12)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


def test_delivery_killed_while_it_seals_repeats_and_loses_nothing(journal, directory):
    journal.begin()
    journal.log(1, 90)
    journal.checkpoint(90, model=b"weights")
    journal.end()
    journal.recorder.close()
    program = """
import os, runpy, signal, sys
from loopwright.trackers import comet_archives, comet_session
comet_session.MOST_RECORDS = 40
put, count = comet_archives.put_in_place, 0
def fatal(*paths):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    put(*paths)
comet_archives.put_in_place = fatal
sys.argv = ["loopwright", "sync", sys.argv[1]]
runpy.run_module("loopwright", run_name="__main__", alter_sys=True)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(journal.directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(archives(directory)) == 1
    assert [path.name for path in directory.iterdir() if path.is_dir()] == [f".unfinished-{journal.run.id}"]
    assert journal.deliver() is None
    assert_equal(directory, journal)
    assert [name for path in archives(directory) for name in files_in(path)] == ["out/checkpoint-90/model"]
    assert not [path for path in directory.iterdir() if path.is_dir()]


@pytest.mark.parametrize("harm", ["deleted", "torn"])
def test_archive_that_is_gone_or_torn_comes_again_and_the_others_do_not(harm, journal, directory, monkeypatch):
    monkeypatch.setattr(comet_session, "MOST_RECORDS", 4)
    journal.begin()
    journal.log(1, 12)
    journal.deliver()
    _, second, third = archives(directory)[:3]
    if harm == "deleted":
        second.unlink()
    else:
        os.truncate(second, second.stat().st_size // 2)
    journal.log(13)
    assert journal.deliver() is None
    assert_equal(directory, journal)
    assert len(list(directory.glob("*.damaged"))) == (harm == "torn")
    third.unlink()  # what took the second's place holds records before and after this one's, and none of its own
    journal.log(14)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


def test_points_that_comet_could_not_write_come_again(journal, directory, monkeypatch, caplog):
    from comet_ml.streamer.handlers.offline_handler import OfflineMessageHandler

    write, count = OfflineMessageHandler._write, 0

    def forgetful(self, message, context):
        nonlocal count
        count += message["type"] == "metric_msg"
        if count != 10:
            write(self, message, context)

    monkeypatch.setattr(OfflineMessageHandler, "_write", forgetful)
    journal.begin()
    journal.log(1, 10)
    journal.end()
    assert journal.deliver() is None, "the same worker begins anew"
    assert "Comet's archive lacks 1 point(s)" in caplog.text
    assert_equal(directory, journal)


def test_archive_that_cannot_be_put_in_place_is_put_there_later(journal, directory, monkeypatch, caplog):
    put, count = comet_archives.put_in_place, 0

    def fails_once(*paths):
        nonlocal count
        count += 1
        if count == 1:
            raise OSError("not now")
        put(*paths)

    given_up = []

    def leave(self):
        given_up.append(self)

    monkeypatch.setattr(comet_archives, "put_in_place", fails_once)
    monkeypatch.setattr(comet_session.ArchivesSession, "leave", leave)
    monkeypatch.setattr(comet_session, "MOST_RECORDS", 4)
    journal.begin()
    journal.log(1, 4)
    journal.checkpoint(4, model=b"weights")
    journal.log(5, 6)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)
    assert [name for path in archives(directory) for name in files_in(path)] == ["out/checkpoint-4/model"]
    assert "not now" in caplog.text
    assert given_up == [], "the session that had it has gone on"


def test_full_disk_loses_nothing(journal, directory, request):
    directory.mkdir()
    mount_small_disk(request, directory, "4m")
    journal.begin()
    journal.log(1, 2000)
    fill(directory / "ballast")
    assert journal.deliver() is not None
    assert archives(directory) == []
    (directory / "ballast").unlink()
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


def test_unwritable_directory_loses_nothing(journal, directory):
    directory.write_text("a file stands in the way")
    journal.begin()
    journal.log(1, 5)
    assert journal.deliver() is not None
    directory.unlink()
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


def test_checkpoint_larger_than_comet_takes_is_refused_and_the_rest_goes_on(journal, directory, monkeypatch):
    begin = comet_session.begin_offline

    def small(*args):
        experiment = begin(*args)
        experiment.asset_upload_limit = 10
        return experiment

    monkeypatch.setattr(comet_session, "begin_offline", small)
    journal.begin()
    journal.log(1, 3)
    journal.checkpoint(3, model=b"weights" * 10)
    journal.log(4, 5)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)
    assert payloads(directory, "file_upload") == []
    assert read_delivered(journal.directory, journal.run.id, "comet_ml").refused == 1


@pytest.mark.parametrize("forgets", [False, True])
def test_contradicted_points_are_taken_out_of_archives(forgets, journal, directory):
    journal.begin()
    whereabouts = journal.log_past(5, 8)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5, resumed_at=whereabouts)
    journal.log(6, 9, loss=-1.0)
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)
    assert points_in(directory)["train/loss", 7] == Counter(["-1.0"])
    assert others_in(directory)["loopwright/rewound_to_step"] == 6
    if forgets:  # told once more, it takes nothing that came later
        journal.forget(cursor=0, reference="{}")
        assert journal.deliver() is None
        assert_equal(directory, journal)


def test_abandoned_session_leaves_nothing(journal, directory):
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    until = time.monotonic() + 20
    while (worker._sink is None or worker._sink._written == 0) and time.monotonic() < until:
        time.sleep(0.02)
    experiment = worker._sink._experiment
    worker._sink.abandon()
    worker.stop()
    assert worker.join(5)
    assert not experiment.alive
    assert not experiment.streamer.is_alive()
    journal.end()
    assert journal.deliver() is None
    assert_equal(directory, journal)


def test_a_later_sync_finds_directory_and_key_from_elsewhere(journal, monkeypatch, tmp_path):
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", "beside")
    monkeypatch.setenv("COMET_EXPERIMENT_KEY", CHOSEN)
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    journal.log(6, 7)
    journal.end()
    monkeypatch.delenv("COMET_EXPERIMENT_KEY")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    assert journal.deliver() is None
    assert_equal(tmp_path / "here" / "beside", journal)
    assert {about(path)["offline_id"] for path in archives(tmp_path / "here" / "beside")} == {CHOSEN}


# Trainings


def test_training_reports_without_the_sdk_in_its_process(tmp_path, directory):
    program = """
import os, sys
from tests.trackers.trainings import build
trainer = build(os.environ["OUT"], report_to="comet_ml", run_name="demo", tracker_close_timeout=60, max_steps=6)
trainer.train()
trainer.reporting.close()
assert "comet_ml" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OUT": str(tmp_path / "out")}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert points_in(directory) == expected(tmp_path / "out")
    stored = {name.split("/")[1] for path in archives(directory) for name in files_in(path)}
    assert stored == {"checkpoint-5", "checkpoint-6"}
    assert "COMET" not in finished.stdout + finished.stderr


@pytest.fixture
def programs(directory):
    """The program's own experiment."""
    comet_ml = comet_sdk.sdk()
    experiment = comet_ml.OfflineExperiment(
        offline_directory=str(directory), auto_output_logging=False, log_env_details=False, log_code=False,
        log_git_metadata=False, log_git_patch=False, parse_args=False, auto_log_co2=False, display_summary_level=0,
    )  # fmt: skip
    yield experiment
    if experiment.alive:
        experiment.end()
    comet_ml.config.set_global_experiment(None)


def test_experiment_of_the_program_is_used_and_goes_on(tmp_path, directory, programs, monkeypatch):
    monkeypatch.setenv("COMET_LOG_ASSETS", "0")
    trainer = build(tmp_path / "out", report_to="comet_ml", run_name="unused", tracker_call_timeout=10)
    trainer.train()
    trainer.reporting.close()
    import comet_ml

    assert comet_ml.get_running_experiment() is programs
    assert programs.alive
    programs.log_metric("after", 1.0, step=100)
    programs.end()
    (path,) = archives(directory)
    assert path.name == f"{programs.get_key()}.zip"
    found = points_in(directory)
    assert found.pop(("after", 100)) == Counter(["1.0"])
    assert found == expected(tmp_path / "out")
    others = others_in(directory)
    assert "Name" not in others
    assert others["loopwright/status"] == "completed"


def test_experiment_of_the_program_is_left_alone_by_one_of_ours(journal, directory, programs, tmp_path):
    # In the delivery process there is none; here it would be ended, were ours begun as the SDK does.
    journal.begin()
    journal.log(1, 3)
    journal.end()
    assert journal.deliver() is None
    import comet_ml

    assert comet_ml.get_running_experiment() is programs
    assert programs.alive
    ours = [path for path in archives(directory) if path.name.startswith(journal.run.id)]
    assert len(ours) == 1


def test_sdk_in_the_process_alone_means_nothing(monkeypatch):
    comet_sdk.sdk()
    assert place(CometCallback()).place == "delivery"


class MyComet(CometCallback):
    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        self._experiment.log_other("mine", args.seed)

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs={**logs, "doubled": 2}, **kwargs)


@pytest.mark.parametrize("where", ["offline", "online"])
def test_subclass_may_hand_on_other_logs_and_reach_the_experiment(where, tmp_path, directory, request):
    server = request.getfixturevalue("server") if where == "online" else None
    hook, level = sys.excepthook, logging.getLogger("comet_ml").level
    trainer = build(tmp_path / "out", callbacks=[MyComet()], tracker_call_timeout=10)
    trainer.train()
    trainer.reporting.close()
    if server is None:
        found, others = points_in(directory), others_in(directory)
    else:
        (experiment,) = server.experiments.values()
        found, others = experiment.points(), experiment.others
    assert [place for place in sorted(found) if place[0] == "train/doubled"] == [
        ("train/doubled", step) for step in range(1, 13)
    ]
    assert others["mine"] == 42
    assert (sys.excepthook, logging.getLogger("comet_ml").level) == (hook, level)


def test_inside_transformers_own_trainer_it_works_beside_the_training(tmp_path, directory, monkeypatch):
    from loopwright.trackers import standalone
    from tests.trackers.test_standalone import theirs

    monkeypatch.setattr(standalone, "_by_directory", {})
    trainer = theirs(tmp_path / "out", CometCallback())
    assert "comet_ml" in sys.modules
    trainer.train()
    assert points_in(directory) == expected(tmp_path / "out")
    stored = {name.split("/")[1] for path in archives(directory) for name in files_in(path)}
    assert stored >= {"checkpoint-5", "checkpoint-10", "checkpoint-12"}
