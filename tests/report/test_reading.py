"""A run is read back from its directory: all that is there, nothing more, and clear words where there is nothing."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loopwright.delivery.store import DeliveryStore
from loopwright.errors import ArgumentError, JournalNotFound
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from loopwright.report.reading import find_runs, parse_run, read_run


def test_whole_run_is_read(whole):
    view = read_run(whole)
    assert (view.status, view.last_step, view.is_alive) == (Status.COMPLETED, 9, False)
    assert view.series["loss"].steps == (2, 4, 6, 8)
    assert view.series["eval_loss"].steps == (3, 6, 9)
    assert all(math.isfinite(value) for value in view.series["eval_loss"].values)
    assert view.last_metrics["eval_loss"] == view.series["eval_loss"].values[-1]
    assert list(view.series["loss"].times) == sorted(view.series["loss"].times)
    assert [one.step for one in view.checkpoints] == [3, 6, 9]
    assert {one.state for one in view.checkpoints} == {"sizes match"}
    assert all(one.size > 0 and one.attempt == 1 for one in view.checkpoints)
    assert view.trackers == ()
    assert view.versions["python"].startswith("3.")
    best = min(view.series["eval_loss"].values)
    assert (view.best.name, view.best.value, view.best.is_highest) == ("eval_loss", best, False)
    assert 0 < view.seconds < 60


def test_arguments_that_differ_from_the_defaults_are_named(whole):
    found = {one.name: (one.value, one.default) for one in read_run(whole).differences}
    assert found["seed"] == (7, 42)
    assert found["per_device_train_batch_size"] == (4, 8)
    assert found["eval_strategy"] == ("epoch", "no")
    assert "learning_rate" not in found
    assert "output_dir" not in found


def test_every_byte_is_read_where_asked(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    weights = copy / "checkpoint-6" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (copy / "checkpoint-9" / "optimizer.pt").unlink()
    assert [one.state for one in read_run(copy).checkpoints] == ["sizes match", "sizes match", "damaged"]
    verified = read_run(copy, verify=True).checkpoints
    assert [one.state for one in verified] == ["whole", "damaged", "damaged"]
    assert any("model.safetensors" in reason for reason in verified[1].damage)


def test_killed_run_is_known_as_killed_before_anybody_starts_it_again(killed):
    view = read_run(killed)
    (attempt,) = view.attempts
    assert attempt.attempt.status is Status.RUNNING  # as the journal has it
    assert (attempt.status, view.status, view.is_alive) == (Status.KILLED, Status.KILLED, False)
    assert attempt.last_step == 6
    assert view.series["loss"].steps == (2, 4, 6)
    assert attempt.until == pytest.approx(view.lines[-1].time, abs=5)


def test_run_of_two_attempts_is_one_run(resumed):
    view = read_run(resumed)
    assert [one.status for one in view.attempts] == [Status.KILLED, Status.STOPPED]
    assert view.attempts[1].attempt.first_step == 6
    assert list(view.series["loss"].steps) == list(range(2, view.last_step + 1, 2))  # each step once
    stopping = [(one.callback, one.flag) for one, _ in view.decisions if one.stops_training]
    assert stopping == [("EarlyStoppingCallback", "should_training_stop")]
    gap = view.attempts[1].attempt.started_at - view.attempts[0].until
    assert gap > 0
    assert view.attempts[0].attempt.ended_at > view.attempts[0].until  # not the time between the two
    deleted = [one for one in view.checkpoints if not one.exists]
    assert deleted
    assert any(one.exists for one in view.checkpoints)


def test_what_trackers_lack_is_counted(undelivered, tmp_path):
    view = read_run(undelivered)
    (tracker,) = view.trackers
    assert (tracker.name, tracker.place) == ("tensorboard", "delivery")
    assert tracker.undelivered == view.undelivered > 8
    copy = tmp_path / "copy"
    shutil.copytree(undelivered, copy)
    store = DeliveryStore(copy)
    store.note_failure(view.run.id, "tensorboard", "FileExistsError: in the way")
    store.move(view.run.id, "tensorboard", 2)
    store.close()
    (later,) = read_run(copy).trackers
    assert (later.undelivered, later.error) == (tracker.undelivered - 2, "FileExistsError: in the way")


def test_training_at_work_is_alive_and_keeps_its_lock(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(Run(id="a" * 32, output_dir=str(tmp_path)), purpose="training")
    recorder.record(Kind.LOG, 1, {"loss": 1.0})
    try:
        view = read_run(tmp_path)  # in the process that holds it
        assert (view.is_alive, view.status) == (True, Status.RUNNING)
        code = (
            "import sys; from loopwright.report.reading import read_run; view = read_run(sys.argv[1]); "
            "print(view.is_alive, view.status)"
        )
        for _ in range(2):  # the first one has not taken the lock away
            found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
            assert found.stdout.split() == ["True", "running"]
    finally:
        recorder.close()


def test_reading_loads_no_torch(resumed):
    code = (
        "import sys; from loopwright.report.reading import read_run, find_runs; "
        "read_run(sys.argv[1]); find_runs(sys.argv[1]); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, resumed], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_nonfinite_values_are_kept(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(Run(id="a" * 32, output_dir=str(tmp_path)), purpose="training")
    for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, 10**400, True, "text"], start=1):
        recorder.record(Kind.LOG, step, {"loss": value})
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    loss = read_run(tmp_path).series["loss"]
    assert loss.steps == (1, 2, 3, 4, 5)
    assert repr(loss.values) == "(1.0, nan, inf, -inf, inf)"
    assert loss.num_nonfinite == 4


@pytest.fixture
def three(tmp_path):
    """A journal of three runs."""
    directory = tmp_path / "runs" / "three"
    recorder = Recorder(directory)
    for number, run_id in enumerate(["abcd1" + "0" * 27, "abcd2" + "0" * 27, "ffff0" + "0" * 27]):
        recorder.begin_attempt(Run(id=run_id, output_dir=str(directory), created_at=float(number)), purpose="training")
        recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    return directory


def test_newest_run_is_read_unless_one_is_named(three):
    assert read_run(three).run.short_id == "ffff0000"
    assert read_run(three, "abcd1").run.short_id == "abcd1000"
    assert [view.run.short_id for view in find_runs(three.parent)] == ["abcd1000", "abcd2000", "ffff0000"]


@pytest.mark.parametrize(
    ("run_id", "words"),
    [
        ("abcd", "may be any of abcd1000, abcd2000: give more digits"),
        ("1234", "no such run in .*; there are abcd1000, abcd2000, ffff0000"),
        ("abc", "4 to 32 of 0-9 and a-f"),
        ("%%%%", "4 to 32 of 0-9 and a-f"),
    ],
)
def test_run_that_is_not_there_is_said_so(three, run_id, words):
    with pytest.raises(ArgumentError, match=words):
        read_run(three, run_id)


def test_directory_without_a_journal_is_said_so(three, tmp_path):
    with pytest.raises(JournalNotFound, match="no such directory"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalNotFound, match="holds no journal: give the output_dir"):
        read_run(tmp_path / "empty")
    with pytest.raises(JournalNotFound, match="folders in it do"):
        read_run(three.parent)
    with pytest.raises(JournalNotFound, match="nor does a folder in it"):
        find_runs(tmp_path / "empty")


def test_run_on_a_command_line(tmp_path):
    assert parse_run("out") == (Path("out"), None)
    assert [str(part) for part in parse_run("out:abcd")] == ["out", "abcd"]
    assert [str(part) for part in parse_run("out", "abcd")] == ["out", "abcd"]
    (tmp_path / "out:beef").mkdir()
    assert parse_run(str(tmp_path / "out:beef")) == (tmp_path / "out:beef", None)
    with pytest.raises(ArgumentError, match="leave out --run"):
        parse_run("out:abcd", "abcd")
    with pytest.raises(ArgumentError, match="4 to 32"):
        parse_run("out:xy")
