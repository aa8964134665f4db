"""Neptune holds what the journal holds: offline in its SDK's files, read by the SDK's own reader."""

from __future__ import annotations

import base64
import json
import math
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from loopwright._support import log
from loopwright._support.env import read_all
from loopwright.delivery.follower import Follower
from loopwright.delivery.store import read_delivered
from loopwright.errors import ArgumentError, TrackerError
from loopwright.integrations import NeptuneCallback
from loopwright.journal.reader import SinkEntry
from loopwright.records import Kind, Status
from loopwright.trackers.neptune import NeptuneMissingConfiguration
from loopwright.trackers.placement import place
from loopwright.trackers.registry import make_tracker
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.neptune import epoch, expected_series, fields, folders, operations, series
from tests.trackers.trainings import build, deliver_what_is_left

CLASS_PATH = "loopwright.trackers.neptune:NeptuneCallback"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No variable from elsewhere, no line that was said before, and a working directory that has to stay empty."""
    for name in (*NeptuneCallback.variables, "NEPTUNE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(log, "_said", set())
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield
    assert not list((tmp_path / "cwd").iterdir()), "the SDK left something in the working directory"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("NEPTUNE_MODE", "offline")


class Journal(ServiceJournal):
    """A journal for Neptune.

    Arguments:
        directory: The run's.
        options: The tracker's constructor arguments.
        run: Fields of the run.
    """

    tracker_class = NeptuneCallback

    def __init__(self, directory, options=None, **run):
        super().__init__(directory, **run)
        self.options = options or {}

    def begin(self, **attempt):
        self.recorder.begin_attempt(self.run, purpose="training", **attempt)
        tracker = NeptuneCallback(**self.options)
        options = {"arguments": tracker.constructor_arguments()}
        variables = read_all(NeptuneCallback.variables)
        wants = tracker.wants_checkpoints()
        entry = SinkEntry(self.run.id, "neptune", CLASS_PATH, options, variables, "delivery", wants)
        self.recorder.add_sink(entry)

    def log(self, first, last, **values):
        for step in range(first, last + 1):
            self.note(Kind.LOG, step, {"loss": 1.0 / step, "grad_norm": float(step), "epoch": step / 10, **values})

    def deliver(self):
        """Deliver what is left; return what stands in the way."""
        follower = Follower(self.directory, make_tracker, trackers=["neptune"])
        follower.run()
        for worker in follower.workers.values():
            if worker.error is not None and worker._sink is not None:
                worker._sink.abandon()  # as the end of its process would
        return next((worker.error for worker in follower.workers.values()), None)

    def deliver_all(self):
        assert self.deliver() is None

    @property
    def folder(self):
        (found,) = folders(self.directory / ".neptune")
        return found

    @property
    def cursor(self):
        return read_delivered(self.directory, self.run.id, "neptune").cursor

    def assert_equal(self):
        assert series(self.folder) == expected_series(self.directory, self.run.id)
        assert fields(self.folder).get("finetuning/train/epoch") == epoch(self.directory)


@pytest.fixture
def journal(tmp_path, offline):
    found = Journal(tmp_path / "out")
    yield found
    found.recorder.close()


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


def uploads(folder):
    """Return the field, the files' directory and whether they replace others, of each upload."""
    return [
        ("/".join(one.path), one.file_globs, one.reset)
        for one in operations(folder)
        if type(one).__name__ == "UploadFileSet"
    ]


# What is recorded


def test_neptune_holds_every_point_with_its_step_and_time(journal):
    journal.begin()
    journal.log(1, 600, note="a text")
    journal.note(Kind.LOG, 600, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5, "dogs": 0.75}, "eval_is_good": True})
    journal.deliver_all()
    journal.assert_equal()
    assert {name for name, _ in series(journal.folder)} >= {"train/loss", "eval/f1/cats", "eval/is_good"}


def test_prediction_is_a_point_with_the_time_at_which_it_was_made(journal):
    journal.begin()
    journal.note(Kind.PREDICTION, 600, {"test_loss": 0.125})
    journal.end()
    journal.deliver_all()
    (predicted,) = [one for one in operations(journal.folder) if one.path == ["finetuning", "test", "loss"]]
    reader = Follower(journal.directory, make_tracker)._reader
    (record,) = reader.records(kinds=[Kind.PREDICTION])
    assert (predicted.values[0].value, predicted.values[0].step, predicted.values[0].ts) == (0.125, 600, record.time)


def test_what_neptune_cannot_hold_is_left_out_and_named_once(journal, caplog):
    journal.begin()
    for step in (1, 2):
        journal.note(Kind.LOG, step, {"loss": math.nan, "grad_norm": -math.inf, "total_flos": 10**400, "fine": 2**40})
        journal.note(Kind.LOG, step, {"eval_f1": 0.5, "": 1.0, "a//b": 2.0})
        journal.note(Kind.LOG, step, {"eval_f1": {"cats": 0.5}})
    journal.end()
    journal.deliver_all()
    found = series(journal.folder)
    expected = {("train/fine", 2**40), ("eval/f1", 0.5), ("train/a/b", 2.0)}
    assert {(name, next(iter(values))) for (name, _), values in found.items()} == expected
    assert len(found) == 6
    lines = [line for line in caplog.messages if "the journal has it" in line]
    assert sorted(line.split()[1] for line in lines) == sorted(
        ["train/loss", "train/grad_norm", "train/total_flos", "train/", "eval/f1/cats"]
    )


def test_parameters_are_those_that_the_run_began_with(tmp_path, offline):
    journal = Journal(
        tmp_path / "out",
        name="first",
        arguments={"learning_rate": 0.1, "output_dir": "out", "nested": {"a": [1, None]}, "big": 2**70},
        parameters={"learning_rate": 0.1, "hidden_size": 8, "odd": math.inf},
    )
    for _ in range(2):
        journal.begin()
        journal.log(1, 1)
        journal.end()
        journal.deliver_all()
    found = fields(journal.folder)
    assert found["sys/name"] == "first"
    assert found["finetuning/trainer_parameters/learning_rate"] == 0.1
    assert found["finetuning/trainer_parameters/nested/a"] == "[1, None]"
    assert found["finetuning/model_parameters/hidden_size"] == 8
    assert found["finetuning/model_parameters/odd"] == "inf"
    assert "finetuning/model_parameters/learning_rate" not in found
    written = [one for one in operations(journal.folder) if one.path[-1] == "hidden_size"]
    assert len(written) == 1, "the second session has nothing new to say"


def test_nothing_is_captured_and_the_sources_of_the_delivery_process_are_not_sought(journal):
    journal.begin()
    journal.log(1, 1)
    journal.end()
    journal.deliver_all()
    tops = {one.path[0] for one in operations(journal.folder)}
    assert tops == {"sys", "finetuning"}
    assert uploads(journal.folder) == []


def test_branch_and_trial_are_runs_of_their_own_that_say_what_they_are(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", str(tmp_path / ".neptune"))
    branch = Journal(tmp_path / "branch", parent_id="f" * 32, parent_step=40)
    trial = Journal(
        tmp_path / "trial", trial_name="trial-3", trial_parameters={"lr": 0.1}, parameters={"lr": 0.1, "layers": 2}
    )
    for journal in (branch, trial):
        journal.begin()
        journal.log(1, 1)
        journal.end()
        journal.deliver_all()
    found = {folder.name.removeprefix("run__"): fields(folder) for folder in folders(tmp_path / ".neptune")}
    assert set(found) == {branch.run.id, trial.run.id}
    assert found[branch.run.id]["finetuning/loopwright/parent_run_id"] == "f" * 32
    assert found[branch.run.id]["finetuning/loopwright/parent_step"] == 40
    described = found[trial.run.id]
    assert (described["sys/name"], described["finetuning/trial"]) == ("trial-3", "trial-3")
    assert described["finetuning/trial_params/lr"] == 0.1
    assert [name for name in described if "model_parameters" in name] == ["finetuning/model_parameters/layers"]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.STOPPED, Status.INTERRUPTED, Status.FAILED, Status.KILLED])
def test_run_ends_as_the_training_did(status, journal):
    journal.begin()
    journal.log(1, 1)
    journal.end(status)
    journal.deliver_all()
    found = fields(journal.folder)
    assert found["finetuning/loopwright/status"] == str(status)
    assert found["sys/failed"] is (status in {Status.FAILED, Status.KILLED})


# Constructor arguments and variables


def test_arguments_say_where_and_what_is_logged(tmp_path, offline):
    options = {"name": "mine", "base_namespace": "a/b", "log_parameters": False, "tags": ["x"], "description": "why"}
    journal = Journal(tmp_path / "out", options, name="other", arguments={"seed": 7}, parameters={"seed": 7})
    journal.begin()
    journal.log(1, 3)
    journal.end()
    journal.deliver_all()
    found = fields(journal.folder)
    assert (found["sys/name"], found["sys/description"], found["a/b/train/epoch"]) == ("mine", "why", 0.3)
    assert series(journal.folder, "a/b") == expected_series(journal.directory)
    assert not [name for name in found if "parameters" in name]
    assert [one.values for one in operations(journal.folder) if type(one).__name__ == "AddStrings"] == [{"x"}]


def test_variable_says_where_the_files_are(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", str(tmp_path / "elsewhere" / ".neptune"))
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 3)
    journal.deliver_all()
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", str(tmp_path / "of another program"))
    journal.log(4, 5)
    journal.end()
    journal.deliver_all()
    (folder,) = folders(tmp_path / "elsewhere" / ".neptune")
    assert series(folder) == expected_series(journal.directory)
    assert read_delivered(journal.directory, journal.run.id, "neptune").reference["shown_at"].startswith(str(folder))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"log_checkpoints": "x"}, "log_checkpoints='x'"),
        ({"log_parameters": "yes"}, "log_parameters='yes'"),
        ({"project": 3}, "project=3"),
        ({"base_namespace": 3}, "base_namespace=3"),
        ({"run": "a run"}, "run='a run'"),
        ({"mode": "loud"}, "mode='loud'"),
        ({"tag": ["x"]}, "tag: neither"),
    ],
)
def test_argument_that_cannot_be_is_named(arguments, named):
    with pytest.raises(ArgumentError, match=named):
        NeptuneCallback(**arguments)


def test_best_without_a_best_one_is_an_error_when_the_trainer_is_built(tmp_path):
    args = build(tmp_path / "out").args
    with pytest.raises(ArgumentError, match="load_best_model_at_end"):
        NeptuneCallback(log_checkpoints="best").on_init_end(args, None, None)
    NeptuneCallback(log_checkpoints="last").on_init_end(args, None, None)


def test_mode_that_stores_nothing_is_off(monkeypatch):
    assert place(NeptuneCallback(mode="debug")).place == "off"
    monkeypatch.setenv("NEPTUNE_MODE", "debug")
    assert place(NeptuneCallback()).reason == 'the mode "debug" stores nothing'
    assert place(NeptuneCallback(mode="offline")).place == "delivery"


def test_variable_that_cannot_be_is_named_and_does_not_count(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NEPTUNE_MODE", "loud")
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 2)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()
    assert [line for line in caplog.messages if "NEPTUNE_MODE='loud': expected one of async, sync" in line]


def test_token_and_what_cannot_be_written_down_keep_it_in_the_training_process():
    assert place(NeptuneCallback(project="a/b", tags=["x"])).place == "delivery"
    for arguments, named in [
        ({"api_token": "secret"}, "NEPTUNE_API_TOKEN"),
        ({"proxies": {"https": "http://me:secret@proxy"}}, "proxies"),
        ({"async_lag_callback": print}, "async_lag_callback"),
        ({"capture_stdout": True}, "capture_stdout"),
    ]:
        tracker = NeptuneCallback(**arguments)
        found = place(tracker)
        assert found.place == "training"
        assert named in found.reason
        assert "secret" not in json.dumps(tracker.constructor_arguments())


def test_constructor_arguments_build_it_anew():
    tracker = NeptuneCallback(project="a/b", name="n", base_namespace="c", log_checkpoints="last", tags=["x"])
    arguments = json.loads(json.dumps(tracker.constructor_arguments()))
    assert NeptuneCallback(**arguments).constructor_arguments() == arguments
    assert pickle.loads(pickle.dumps(tracker)).constructor_arguments() == arguments


# Credentials


def test_without_a_token_the_run_is_offline_and_one_line_says_how_to_send_it(tmp_path, caplog):
    journal = Journal(tmp_path / "out")
    for first in (1, 4):
        journal.begin()
        journal.log(first, first + 2)
        journal.end()
        journal.deliver_all()
    journal.assert_equal()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("neptune: NEPTUNE_API_TOKEN is not set, so the run is kept offline; ")
    assert "shut down" in line
    assert f"neptune sync --path {tmp_path}/out/.neptune" in line


def test_files_are_where_the_sdks_own_command_finds_them(journal):
    from neptune.cli.collect import collect_offline_containers
    from neptune.cli.path_option import get_neptune_path

    for first in (1, 4):
        journal.begin()
        journal.log(first, first + 2)
        journal.end()
        journal.deliver_all()
    path = get_neptune_path(None, None, str(journal.directory / ".neptune"))
    (container,) = collect_offline_containers(path=path)
    assert [one.path for one in container.execution_dirs] == [journal.folder], "both sessions are one run to it"
    assert not container.synced


def a_token(address):
    return base64.b64encode(json.dumps({"api_address": address, "api_url": address, "api_key": "k"}).encode()).decode()


def test_token_of_the_hosted_service_counts_as_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("NEPTUNE_API_TOKEN", a_token("https://app.neptune.ai"))
    monkeypatch.setenv("NEPTUNE_PROJECT", "a/b")
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 2)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()
    assert any("NEPTUNE_API_TOKEN is one for https://app.neptune.ai" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("missing", "others"), [("NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT"), ("NEPTUNE_PROJECT", "NEPTUNE_API_TOKEN")]
)
def test_run_that_is_to_be_sent_waits_in_the_journal_for_what_is_missing(missing, others, tmp_path, monkeypatch):
    monkeypatch.setenv("NEPTUNE_MODE", "async")
    monkeypatch.setenv(others, a_token("http://127.0.0.1:9") if "TOKEN" in others else "a/b")
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 2)
    journal.end()
    error = journal.deliver()
    assert f"NeptuneMissingConfiguration: the run is to be sent to Neptune, and {missing} is not set" in error
    assert issubclass(NeptuneMissingConfiguration, TrackerError)
    assert journal.cursor == 0


def test_token_that_is_none_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "nonsense")
    monkeypatch.setenv("NEPTUNE_PROJECT", "a/b")
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 2)
    journal.end()
    assert "NEPTUNE_API_TOKEN is not a token of Neptune's" in journal.deliver()
    assert "nonsense" not in journal.deliver()


@pytest.mark.parametrize("kind", ["refuses", "silent"])
def test_server_that_does_not_answer_is_noticed_soon_and_nothing_is_lost(kind, tmp_path, monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if kind == "silent":
            listening.listen()
            monkeypatch.setattr("loopwright.trackers.neptune_session._KNOCK_SECONDS", 0.5)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("NEPTUNE_API_TOKEN", a_token(address))
        monkeypatch.setenv("NEPTUNE_PROJECT", "a/b")
        journal = Journal(tmp_path / "out")
        journal.begin()
        journal.log(1, 5)
        journal.end()
        began = time.monotonic()
        assert f"nothing answers at {address}" in journal.deliver()
        assert time.monotonic() - began < 20
    assert journal.cursor == 0
    monkeypatch.setenv("NEPTUNE_MODE", "offline")
    journal.begin()
    journal.end()
    journal.deliver_all()
    journal.assert_equal()


# Sessions


def test_resumed_run_goes_on_in_the_same_folder(journal):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    journal.deliver_all()
    assert fields(journal.folder)["sys/failed"] is True
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()
    assert fields(journal.folder)["sys/failed"] is False


def test_records_that_come_again_are_not_written_again(journal):
    journal.begin()
    journal.log(1, 20)
    journal.deliver_all()
    journal.forget(cursor=0)
    journal.log(21, 25)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_file_that_a_kill_has_cut_anywhere_is_mended_and_completed(keep, journal):
    journal.begin()
    journal.log(1, 30)
    journal.note(Kind.LOG, 30, {"eval_loss": 0.5, "eval_f1": 0.5, "eval_recall": 0.5})
    journal.deliver_all()
    (file,) = journal.folder.glob("data-*.log")
    os.truncate(file, int(keep * file.stat().st_size))
    journal.forget(cursor=0)
    journal.log(31, 33)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()
    versions = [json.loads(line)["version"] for line in file.read_text().splitlines()]
    assert versions == list(range(1, len(versions) + 1)), "the SDK's own count goes on from what is there"


def test_every_cut_between_two_points_of_a_record_is_completed(journal):
    journal.begin()
    journal.log(1, 2)
    journal.end()
    journal.deliver_all()
    (file,) = journal.folder.glob("data-*.log")
    lines = file.read_bytes().splitlines(keepends=True)
    for number in range(len(lines)):
        file.write_bytes(b"".join(lines[:number]) + lines[number][:40])
        journal.forget(cursor=0)
        journal.deliver_all()
        journal.assert_equal()


def test_deleted_folder_gets_everything_again(journal):
    journal.begin()
    journal.log(1, 5)
    journal.deliver_all()
    shutil.rmtree(journal.folder)
    journal.log(6, 8)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()
    assert fields(journal.folder)["finetuning/loopwright/run_id"] == journal.run.id


def test_folder_that_vanishes_under_an_open_run_gets_everything_again(journal):
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    wait_for(lambda: worker.pending() == 0)
    shutil.rmtree(journal.folder)
    journal.log(6, 9)
    wait_for(lambda: worker.error is not None or worker.pending() == 0)
    wait_for(lambda: worker.error is None and worker.pending() == 0)
    worker.finish()
    assert worker.join(30)
    journal.assert_equal()


def test_what_a_resumed_run_contradicts_is_taken_back(journal):
    journal.recorder.is_deterministic = True
    journal.begin()
    journal.log(1, 2)
    resumed_at = journal.recorder.whereabouts()
    journal.log(3, 6)
    journal.deliver_all()
    for number in (1, 2):
        journal.begin(first_step=2, resumed_at=resumed_at)
        journal.note(Kind.LOG, 3, {"loss": 100.0 + number})
        journal.deliver_all()
        assert series(journal.folder) == expected_series(journal.directory)
        assert fields(journal.folder)["finetuning/loopwright/rewound_to_step"] == 3
    assert list(series(journal.folder)["train/loss", 3]) == [102.0]


KILLED = """
import os, signal, sys
from loopwright.trackers import neptune_session
from loopwright.delivery.follower import Follower
from loopwright.trackers.registry import make_tracker

num_flushes, genuine = 0, neptune_session.Session._settle
def settle(self, sequence):
    global num_flushes
    num_flushes += 1
    if num_flushes == {flush}:
        if {is_half}:
            writer = self.run._op_processor._queue._writer._writer
            writer.write('{{"obj": {{"type": "LogFlo')
            writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    genuine(self, sequence)
neptune_session.Session._settle = settle
Follower(sys.argv[1], make_tracker).run()
"""


@pytest.mark.parametrize(("flush", "is_half"), [(1, False), (2, True)])
def test_delivery_that_is_killed_before_it_flushes_loses_and_doubles_nothing(flush, is_half, journal):
    journal.begin()
    journal.log(1, 700)
    journal.end()
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED.format(flush=flush, is_half=is_half), str(journal.directory)],
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert journal.cursor == (500 if flush == 2 else 0)
    journal.recorder.close()
    deliver_what_is_left(journal.directory)
    journal.assert_equal()


# Checkpoints


def a_checkpoint(journal, step, *, best=None):
    path = journal.directory / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.bin").write_text(f"weights of step {step}")
    state = {"best_model_checkpoint": None if best is None else str(journal.directory / f"checkpoint-{best}")}
    (path / "trainer_state.json").write_text(json.dumps(state))
    journal.note(Kind.CHECKPOINT, step, {"path": path.name})
    return path


def test_every_checkpoint_is_kept_as_it_was_though_it_is_rotated_out(tmp_path, offline):
    journal = Journal(tmp_path / "out", {"log_checkpoints": "same"})
    journal.begin()
    for step in (1, 2):
        path = a_checkpoint(journal, step)
        journal.deliver_all()
        shutil.rmtree(path)
    journal.forget(cursor=0)
    journal.end()
    journal.deliver_all()
    found = uploads(journal.folder)
    assert [(place, replaces) for place, _, replaces in found] == [
        ("finetuning/checkpoints/checkpoint-1", True),
        ("finetuning/checkpoints/checkpoint-2", True),
    ]
    for step, (_, (directory,), _) in enumerate(found, 1):
        assert (type(tmp_path)(directory) / "model.bin").read_text() == f"weights of step {step}"
        assert not directory.startswith(str(journal.folder)), "`neptune sync` renames that before it sends"


@pytest.mark.parametrize(("which", "stored"), [("last", [1, 2, 3]), ("best", [1, 2])])
def test_last_or_best_checkpoint_stands_in_place_of_the_one_before(which, stored, tmp_path, offline):
    journal = Journal(tmp_path / "out", {"log_checkpoints": which})
    journal.begin()
    for step, best in ((1, 1), (2, 2), (3, 2)):
        a_checkpoint(journal, step, best=best)
    journal.end()
    journal.deliver_all()
    found = uploads(journal.folder)
    assert [place for place, _, _ in found] == [f"finetuning/checkpoints/{which}"] * len(stored)
    assert [directory.rpartition("-")[2] for _, (directory,), _ in found] == [str(step) for step in stored]
    assert all(replaces for _, _, replaces in found)
    kept = list((journal.directory / ".neptune" / "files").glob("*/*"))
    assert [path.name for path in kept] == [f"checkpoint-{stored[-1]}"]


def test_without_the_argument_no_checkpoint_is_stored_but_other_files_are(journal):
    journal.begin()
    a_checkpoint(journal, 1)
    (journal.directory / "plots").mkdir()
    journal.note(Kind.ARTIFACT, 1, {"path": "plots"})
    journal.end()
    journal.deliver_all()
    assert [place for place, _, _ in uploads(journal.folder)] == ["finetuning/artifacts/plots"]


# The training process


def test_run_of_the_program_is_used_and_left_open(tmp_path, monkeypatch):
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", str(tmp_path / "mine"))
    import neptune

    quiet = dict.fromkeys(("capture_stdout", "capture_stderr", "capture_hardware_metrics", "capture_traceback"), False)
    mine = neptune.init_run(mode="offline", source_files=[], git_ref=False, **quiet)
    tracker = NeptuneCallback(run=mine)
    assert place(tracker).reason == "an object of its SDK was handed to it"
    out = tmp_path / "out"
    trainer = build(out, callbacks=[tracker])
    assert NeptuneCallback.get_run(trainer) is mine
    trainer.train()
    trainer.reporting.close()
    mine["mine"].append(1.0, step=1)
    mine.stop()
    (folder,) = folders(tmp_path / "mine")
    found = series(folder)
    assert found.pop(("mine", 1))
    assert found == expected_series(out)
    assert not (out / ".neptune").exists()


def test_get_run_makes_the_run_before_training_and_the_program_logs_to_it_too(tmp_path, offline):
    out = tmp_path / "out"
    trainer = build(out, callbacks=[NeptuneCallback()])
    run = NeptuneCallback.get_run(trainer)
    assert NeptuneCallback.get_run(trainer) is run
    run["mine"] = "before"
    trainer.train()
    trainer.reporting.close()
    (folder,) = folders(out / ".neptune")
    assert fields(folder)["mine"] == "before"
    assert fields(folder)["finetuning/loopwright/status"] == "completed"
    assert series(folder) == expected_series(out)
    assert run.get_state() == "stopped"


def test_get_run_says_why_there_is_none(tmp_path, offline):
    out = tmp_path / "out"
    with pytest.raises(TrackerError, match="no NeptuneCallback among its callbacks"):
        NeptuneCallback.get_run(build(out))
    trainer = build(out, callbacks=[NeptuneCallback()], tracker_close_timeout=60)
    trainer.evaluate()
    with pytest.raises(TrackerError, match=r"before train\(\), or hand a run of your own"):
        NeptuneCallback.get_run(trainer)
    trainer.reporting.close()
    (folder,) = folders(out / ".neptune")
    assert series(folder) == expected_series(out)


def test_get_run_in_debug_mode_returns_a_run_that_stores_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NEPTUNE_MODE", "debug")
    out = tmp_path / "out"
    trainer = build(out, callbacks=[NeptuneCallback()])
    run = NeptuneCallback.get_run(trainer)
    run["mine"] = 1
    trainer.train()
    trainer.reporting.close()
    run.stop()
    assert not [path for path in (out / ".neptune").rglob("*") if path.is_file()]


def test_two_trackers_of_one_training_have_a_folder_each(tmp_path, offline):
    out = tmp_path / "out"
    trackers = [NeptuneCallback(), NeptuneCallback(base_namespace="second")]
    trainer = build(out, callbacks=trackers, tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()
    found = folders(out / ".neptune")
    assert [folder.name for folder in found] == [f"run__{trainer.run_id}", f"run__{trainer.run_id}-2"]
    assert series(found[0]) == expected_series(out)
    assert series(found[1], "second") == expected_series(out)


# A server


# The SDK's thread that sends does.
dies_of_closed_files = pytest.mark.filterwarnings(
    "ignore:Exception in thread NeptuneAsync:pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture
def server(monkeypatch):
    from tests.trackers.neptune_server import Server

    found = Server()
    found.install(monkeypatch)
    monkeypatch.setattr("loopwright.trackers.neptune_session._SEND_SECONDS", 0.5)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", a_token("http://127.0.0.1:9"))
    monkeypatch.setenv("NEPTUNE_PROJECT", "a/b")
    return found


def leftovers(journal):
    return list((journal.directory / ".neptune").rglob("data-*.log"))


@pytest.mark.parametrize("mode", [None, "sync"])
def test_server_gets_every_point_once_in_one_run_over_all_sessions(mode, server, tmp_path, monkeypatch):
    if mode is not None:
        monkeypatch.setenv("NEPTUNE_MODE", mode)
    journal = Journal(tmp_path / "out", {"log_checkpoints": "same"}, arguments={"seed": 7}, parameters={"seed": 7})
    journal.begin()
    journal.log(1, 20)
    path = a_checkpoint(journal, 20)
    journal.end(Status.FAILED)
    journal.deliver_all()
    assert server.fields["sys/failed"] is True
    journal.begin(first_step=20)
    journal.log(21, 30)
    journal.end()
    journal.deliver_all()
    # Killed when all was sent, and nothing of it noted.
    journal.forget(cursor=0)
    journal.deliver_all()
    assert server.points == expected_series(journal.directory)
    assert server.refused == []
    assert server.num_runs == 1
    assert server.modes == [(mode or "async", a_token("http://127.0.0.1:9"))] * 3
    assert server.fields["finetuning/trainer_parameters/seed"] == 7
    assert server.fields["sys/failed"] is False
    assert server.uploads == [("finetuning/checkpoints/checkpoint-20", [str(path)])]
    assert leftovers(journal) == []
    kept = [file.read_bytes() for file in journal.directory.glob("*.db*")]
    assert not any(a_token("http://127.0.0.1:9").encode() in content for content in kept)


@dies_of_closed_files
def test_server_that_goes_away_and_comes_back_gets_each_point_once(server, tmp_path):
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 20)
    journal.deliver_all()
    server.is_down = True
    journal.log(21, 40)
    journal.end()
    before = journal.cursor
    assert "operations wait for Neptune's server" in journal.deliver()
    assert journal.cursor == before, "nothing counts that the server has not acknowledged"
    assert leftovers(journal)
    server.is_down = False
    journal.deliver_all()
    assert server.points == expected_series(journal.directory)
    assert server.refused == []
    assert leftovers(journal) == []


@dies_of_closed_files
def test_server_that_stays_away_gets_what_waits_once_however_often_it_is_tried(server, tmp_path):
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 20)
    journal.deliver_all()
    server.is_down = True
    journal.log(21, 40)
    journal.end()
    for _ in range(2):  # the second session finds in the folder what the first has left
        assert "operations wait for Neptune's server" in journal.deliver()
    server.is_down = False
    journal.deliver_all()
    assert server.points == expected_series(journal.directory)
    assert server.refused == []


@dies_of_closed_files
def test_what_a_killed_session_had_not_sent_is_sent_by_the_next_and_not_twice(server, tmp_path):
    journal = Journal(tmp_path / "out")
    journal.begin()
    server.is_down = True
    worker = journal.start_worker()
    journal.log(1, 20)
    wait_for(lambda: leftovers(journal) and "sequence" in leftovers(journal)[0].read_text())
    worker.stop()
    assert worker.join(10)
    worker._sink.abandon()
    server.is_down = False
    (file,) = leftovers(journal)
    os.truncate(file, file.stat().st_size - 7)
    journal.log(21, 25)
    journal.end()
    journal.deliver_all()
    assert server.points == expected_series(journal.directory)
    assert server.refused == []


def test_another_run_on_the_server_gets_everything(server, tmp_path, monkeypatch):
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 5)
    journal.deliver_all()
    monkeypatch.setenv("NEPTUNE_CUSTOM_RUN_ID", "mine")
    server.points.clear()
    server._last_steps.clear()
    journal.begin(first_step=5)
    journal.log(6, 8)
    journal.end()
    journal.deliver_all()
    assert server.points == expected_series(journal.directory)
    assert sorted(server._runs) == sorted([journal.run.id, "mine"])


def test_branch_does_not_go_into_the_run_that_the_variable_names(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NEPTUNE_CUSTOM_RUN_ID", "mine")
    journal = Journal(tmp_path / "out", parent_id="f" * 32, parent_step=40)
    journal.begin()
    journal.log(1, 2)
    journal.end()
    journal.deliver_all()
    assert list(server._runs) == [journal.run.id]


def test_offline_run_stays_offline_when_there_is_a_token_later(server, tmp_path, monkeypatch):
    monkeypatch.delenv("NEPTUNE_API_TOKEN")
    monkeypatch.setattr("neptune.metadata_containers.metadata_container.get_backend", server_or_files(server))
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 3)
    journal.deliver_all()
    monkeypatch.setenv("NEPTUNE_API_TOKEN", a_token("http://127.0.0.1:9"))
    journal.log(4, 6)
    journal.end()
    journal.deliver_all()
    journal.assert_equal()
    assert server.points == {}


def server_or_files(server):
    from neptune.internal.backends.factory import get_backend

    return lambda mode, **others: get_backend(mode, **others) if mode.value == "offline" else server
