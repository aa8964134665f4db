"""W&B online: the server holds what the journal holds, whatever happens to it on the way."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

import pytest

from loopwright.delivery.worker import Deadlines
from loopwright.records import Kind, Status
from loopwright.trackers.wandb_files import GLOBAL_STEP
from loopwright.trackers.wandb_session import tear_down
from tests.processes import children_of
from tests.trackers.wandb_journal import local_files, points_of, wait_for

pytest_plugins = ("tests.trackers.wandb_fixtures",)
# The SDK's threads that ask wandb-core for news die with it, in a traceback.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception in thread (NetStatThr|IntMsgThr|ChkStopThr):pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture(autouse=True)
def no_sdk_of_earlier_tests():
    """Let the SDK read this test's variables: it keeps those of its first use for the whole process."""
    if "wandb" in sys.modules:
        tear_down()


@pytest.fixture
def held(wandb_service, journal):
    """Return a function that returns the points that the server holds."""
    return lambda: points_of(wandb_service.runs[journal.run.id].lines)


def test_server_holds_every_point_of_the_journal(wandb_service, journal, held):
    journal.begin()
    journal.log(1, 20)
    journal.note(Kind.LOG, 20, {"eval_loss": 0.25})
    journal.note(Kind.LOG, 20, {"train_runtime": 2.0})
    journal.end()
    assert journal.deliver() is None
    assert held() == journal.points()
    run = wandb_service.runs[journal.run.id]
    assert [line["_step"] for line in run.lines] == list(range(1, 21))
    assert run.summary["train_runtime"] == 2.0
    assert run.exit_codes == [0]
    assert wandb_service.unknown == []
    assert wandb_service.runs.keys() == {journal.run.id}


def test_run_is_gone_on_with_after_its_end(wandb_service, journal, held):
    assert journal.whole_run(3) is None
    journal.begin(first_step=3)
    journal.note(Kind.LOG, 3, {"eval_loss": 0.25})
    journal.end()
    assert journal.deliver() is None
    assert held() == journal.points()
    assert wandb_service.runs.keys() == {journal.run.id}


def test_rows_that_the_server_has_and_no_file_do_not_come_again(wandb_service, journal, held):
    journal.begin()
    journal.log(1, 20)
    journal.note(Kind.LOG, 20, {"eval_loss": 0.5})
    assert journal.deliver(Status.RUNNING) is None
    shutil.rmtree(local_files().files[0].parent)
    journal.forget(cursor=0)
    assert_caught_up(wandb_service, journal, held)


def test_rows_that_a_file_has_and_the_server_has_not_come_again(wandb_service, journal, held):
    journal.begin()
    process = journal.follow()
    for first in range(1, 1000, 100):
        journal.log(first, first + 99)
    wait_for(lambda: journal.cursor > 100)
    kill(process)
    assert len(local_files().rows) > len(wandb_service.runs[journal.run.id].lines)
    assert_caught_up(wandb_service, journal, held)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()


def assert_caught_up(wandb_service, journal, held):
    journal.log(1001, 1010)
    journal.end()
    assert journal.deliver() is None
    assert held() == journal.points()
    assert wandb_service.runs[journal.run.id].exit_codes[-1] == 0


def test_run_that_began_offline_is_sent_whole_when_it_is_to_be_online(wandb_service, journal, held, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert journal.whole_run(5) is None
    assert wandb_service.runs == {}
    monkeypatch.setenv("WANDB_MODE", "online")
    journal.begin(first_step=5)
    journal.log(6, 8)
    journal.end()
    assert journal.deliver() is None
    assert held() == journal.points()


def test_server_that_is_away_at_the_beginning_gets_everything_later(wandb_service, journal, held, monkeypatch):
    monkeypatch.setattr("loopwright.trackers.wandb_choices._INIT_SECONDS", 2.0)
    wandb_service.go_away()
    journal.begin()
    worker = journal.start_worker()
    journal.log(1, 10)
    wait_for(lambda: worker.error is not None)
    assert "can't be opened" in worker.error
    assert list(local_files().files) == [], "a run that did not come about leaves no file"
    wandb_service.come_back()
    wait_for(lambda: worker.error is None)
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert worker.error is None
    assert held() == journal.points()


def test_server_that_hangs_at_the_beginning_is_overdue_and_nobody_waits(wandb_service, journal, held):
    wandb_service.fault = "hang"
    journal.begin()
    worker = journal.start_worker(deadlines=Deadlines(open=1.0))
    wait_for(lambda: worker.overdue() == "open")
    began = time.monotonic()
    journal.log(1, 10)
    assert time.monotonic() - began < 1.0
    wandb_service.come_back()
    wait_for(lambda: worker._sent == 10)
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert held() == journal.points()


@pytest.mark.parametrize("fault", ["error", "hang", "away"])
def test_server_that_fails_on_the_way_is_caught_up_with(fault, wandb_service, journal, held):
    journal.begin()
    worker = journal.start_worker()
    journal.log(1, 10)
    wait_for(lambda: worker._sent == 10)
    if fault == "away":
        wandb_service.go_away()
    else:
        wandb_service.fault = fault
    journal.log(11, 20)
    wait_for(lambda: worker._sent == 20)
    time.sleep(0.5)
    wandb_service.come_back()
    journal.log(21, 30)
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert worker.error is None
    assert held() == journal.points()


def test_end_that_the_server_does_not_answer_is_given_up_in_time(wandb_service, journal, held):
    journal.run.arguments["tracker_close_timeout"] = 4.0
    journal.begin()
    worker = journal.start_worker()
    journal.log(1, 10)
    wait_for(lambda: worker._sent == 10)
    wandb_service.go_away()
    journal.log(11, 20)
    began = time.monotonic()
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert time.monotonic() - began < 15
    assert "did not end" in worker.error
    wandb_service.come_back()
    assert journal.deliver() is None
    assert held() == journal.points()


def test_upload_that_the_server_refuses_is_not_taken_for_delivered(wandb_service, journal, held):
    journal.begin()
    wandb_service.forbidden = "file_stream"
    journal.log(1, 10)
    journal.end()
    error = journal.deliver()
    assert error is not None
    assert "403" in error
    assert journal.cursor == 0 or not held()
    wandb_service.come_back()
    assert journal.deliver() is None
    assert held() == journal.points()


def test_artifact_is_waited_for(wandb_service, journal, monkeypatch, held):
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    journal.begin()
    journal.log(5, 5)
    journal.checkpoint(5)
    journal.end()
    assert journal.deliver() is None
    (artifact,) = wandb_service.artifacts
    assert artifact.is_committed
    assert artifact.files == {"weights.bin": b"\5" * 1000, "state.json": b'{"step": 5}'}
    assert (artifact.name, artifact.kind) == (f"model-{journal.run.id}", "model")
    assert set(artifact.aliases) == {"latest", "epoch_0.5", "checkpoint_global_step_5"}
    assert held() == journal.points()


def test_rewound_points_are_taken_back_on_the_server(wandb_service, journal, held):
    journal.begin()
    journal.log(1, 10)
    worker = journal.start_worker()
    wait_for(lambda: worker._sent == 10)
    journal.note(Kind.REWIND, 6, {"from_step": 6})
    for step in range(6, 9):
        journal.note(Kind.LOG, step, {"loss": 100.0 + step})
    journal.end()
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert worker.error is None
    lines = wandb_service.runs[journal.run.id].lines
    assert [(line["_step"], line[GLOBAL_STEP]) for line in lines] == [(step, step) for step in range(1, 9)]
    assert [line["train/loss"] for line in lines[5:]] == [106.0, 107.0, 108.0]


def test_server_that_takes_no_point_back_keeps_both(wandb_service, journal, monkeypatch):
    monkeypatch.setattr("loopwright.trackers.wandb_choices._INIT_SECONDS", 3.0)
    wandb_service.forbidden = "RewindRun"
    journal.begin()
    journal.log(1, 4)
    worker = journal.start_worker()
    wait_for(lambda: worker._sent == 4)
    journal.note(Kind.REWIND, 3, {"from_step": 3})
    journal.note(Kind.LOG, 3, {"loss": 100.0})
    journal.end()
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert worker.error is None
    lines = wandb_service.runs[journal.run.id].lines
    assert [(line["_step"], line[GLOBAL_STEP]) for line in lines] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 3)]


def test_nothing_is_left_running(own_environment):
    assert children_of(os.getpid(), "wandb-core") == []
