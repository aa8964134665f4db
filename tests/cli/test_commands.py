"""The command line, as a process: what it prints, and with which status it ends."""

from __future__ import annotations

import json

import pytest

from loopwright.delivery.store import DeliveryStore
from loopwright.journal.reader import SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status
from tests.cli.running import loopwright


@pytest.fixture
def out(tmp_path):
    """Two runs: one that was killed and then completed, and a branch of it that failed."""
    directory = tmp_path / "out"
    recorder = Recorder(directory)
    first = Run(id="a" * 32, output_dir=str(directory), name="first", created_at=1.0)
    recorder.begin_attempt(first, purpose="training")
    recorder.add_sink(SinkEntry(first.id, "tensorboard", "loopwright.trackers.tensorboard:TensorBoardCallback", {}, {
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "events")}, "delivery", False))  # fmt: skip
    recorder.record(Kind.LOG, 5, {"loss": 1.0})
    recorder.end_attempt(Status.KILLED, "found open by the next start")
    recorder.begin_attempt(first, purpose="training", first_step=5, resumed_at=recorder.whereabouts())
    recorder.decide(Decision(7, "EarlyStoppingCallback", "on_evaluate", "should_training_stop", True))
    recorder.record(Kind.LOG, 7, {"loss": 0.5})
    recorder.end_attempt(Status.STOPPED, "step 7: EarlyStoppingCallback set should_training_stop in on_evaluate")
    second = Run(id="b" * 32, output_dir=str(directory), created_at=2.0, parent_id=first.id, parent_step=5)
    recorder.begin_attempt(second, purpose="training", first_step=5)
    recorder.end_attempt(Status.FAILED, "ValueError: no [bold]")
    recorder.close()
    return directory


def test_runs_lists_attempts_their_ends_and_what_is_undelivered(out):
    finished = loopwright("runs", out, variables=wide())
    assert finished.returncode == 0, finished.stderr
    for words in (
        "run aaaaaaaa · first",
        "killed: found open by the next start",
        "stopped: step 7: EarlyStoppingCallback set should_training_stop in on_evaluate",
        "2 log line(s), the last at step 7",
        "tensorboard: 3 undelivered",
        f"deliver them: loopwright sync {out}",
        "run bbbbbbbb",
        "branched off aaaaaaaa at step 5",
        "failed: ValueError: no [bold]",
    ):
        assert words in finished.stdout, words


def wide():
    import os

    return {**os.environ, "COLUMNS": "200"}


def test_runs_of_a_folder_of_output_directories_as_json(out):
    finished = loopwright("runs", out.parent, "--json")
    found = json.loads(finished.stdout)
    assert [run["id"][0] for run in found] == ["a", "b"]
    assert [attempt["status"] for attempt in found[0]["attempts"]] == ["killed", "stopped"]
    assert found[0]["trackers"] == [{"name": "tensorboard", "undelivered": 3, "error": None}]


def test_runs_where_there_is_no_journal_says_so(tmp_path):
    finished = loopwright("runs", tmp_path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"loopwright: {tmp_path} holds no journal, nor does a folder in it\n"


def test_sync_delivers_and_has_nothing_to_do_a_second_time(out, tmp_path):
    first = loopwright("sync", out)
    assert (first.returncode, first.stdout) == (0, "tensorboard, run aaaaaaaa: everything is delivered\n"), first.stderr
    assert list((tmp_path / "events").iterdir())
    second = loopwright("sync", out)
    assert (second.returncode, second.stdout) == (0, "nothing to deliver: every tracker has everything\n")


def test_sync_says_what_is_left_and_why(out, tmp_path):
    (tmp_path / "events").write_text("a file stands in the way")
    finished = loopwright("sync", out)
    assert finished.returncode == 1
    assert "tensorboard, run aaaaaaaa: 3 left (FileExistsError" in finished.stdout.replace("\n", "")


@pytest.mark.parametrize("command", ["runs", "show"])
def test_a_long_error_of_a_service_is_cut_in_listings_and_whole_in_json(out, command):
    long = "OperationalError: " + "CREATE TABLE spans " * 20
    store = DeliveryStore(out)
    store.note_failure("a" * 32, "tensorboard", long)
    store.close()
    words = (command, f"{out}:aaaa") if command == "show" else (command, out)
    (line,) = [one for one in loopwright(*words).stdout.splitlines() if one.startswith("tensorboard: ")]
    assert line.endswith("…)")
    assert len(line) < 200
    assert long.strip() in loopwright(*words, "--json").stdout


def test_sync_of_an_unknown_tracker_names_those_there_are(out):
    finished = loopwright("sync", out, "--tracker", "wandb")
    assert finished.returncode == 1
    assert finished.stderr == f"loopwright: --tracker wandb: the runs in {out} report to tensorboard\n"


def test_sync_leaves_a_training_alone_that_is_at_work(out):
    recorder = Recorder(out)
    recorder.begin_attempt(Run(id="c" * 32, output_dir=str(out)), purpose="training")
    finished = loopwright("sync", out)
    recorder.close()
    assert finished.returncode == 1
    assert "is training and delivering it" in finished.stderr


def test_sync_where_there_is_no_journal_says_so(tmp_path):
    finished = loopwright("sync", tmp_path)
    assert finished.returncode == 1
    assert "holds no journal" in finished.stderr


def test_version_is_said():
    assert loopwright("--version").stdout.startswith("loopwright ")


def test_cursor_survives_what_reads_it(out):
    store = DeliveryStore(out)
    store.move("a" * 32, "tensorboard", 2)
    store.close()
    found = json.loads(loopwright("runs", out, "--json").stdout)
    assert found[0]["trackers"][0]["undelivered"] == 1
