"""MLflow holds what the journal holds: in a database and on a server, after kills, resumes and outages."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from loopwright.delivery.sink import Standing
from loopwright.delivery.store import DeliveryStore
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import mlflow_client
from loopwright.trackers.registry import make_tracker
from tests.trackers.mlflow_service import Journal, databases, runs_of, stored_points, wait_for

pytest_plugins = ("tests.trackers.mlflow_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("own_environment", "starting_server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

both_places = pytest.mark.parametrize("place", ["database", "server"], indirect=True)


# Points


def test_lines_with_more_values_than_a_request_takes_arrive_whole(client, journal):
    journal.begin()
    journal.log(1, 3, **{f"layer_{number}": number for number in range(1100)})
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert len(stored_points(client(), run.info.run_id)) == 3 * 1102


def test_names_that_mlflow_refuses_are_changed_alike_and_told_apart(client, journal, caplog):
    names = ["P@1", "P(1", "a//b", "../up", "x" * 300, "über: alles"]
    journal.begin()
    for step in (1, 2):
        journal.note(Kind.LOG, step, {f"eval_{name}": 1.0 for name in names})
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    held = [name for name, step, _, _ in stored_points(client(), run.info.run_id) if step == 2]
    long = "eval/" + "x" * 240
    assert sorted(held) == sorted(["eval/P_1", "eval/P_1_", "eval_a__b", "eval_.._up", long, "eval/über: alles"])
    assert len([line for line in caplog.messages if "doesn't take every name" in line]) == 1


def test_a_record_that_mlflow_refuses_is_left_out_alone(client, journal, monkeypatch):
    genuine = mlflow_client.MLflowService.log_points

    def refuse_poison(self, run_id, points):
        if any(point.name == "train/poison" for point in points):
            raise mlflow_client.Refused("it can't be")
        genuine(self, run_id, points)

    monkeypatch.setattr(mlflow_client.MLflowService, "log_points", refuse_poison)
    journal.begin()
    journal.log(1, 5)
    journal.note(Kind.LOG, 6, {"poison": 1.0})
    journal.log(7, 9)
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == [point for point in journal.points() if point[1] != 6]


def test_points_outlive_a_kill_right_after_them_whatever_is_said_of_async_logging(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    run_id = client().create_run("0").info.run_id
    place = os.environ["MLFLOW_TRACKING_URI"]
    script = (
        "import os\n"
        "from loopwright.trackers.mlflow_client import MLflowService, Point\n"
        f"MLflowService({place!r}).log_points({run_id!r}, [Point('loss', 0.5, 3, 1000)])\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 9
    assert stored_points(client(), run_id) == [("loss", 3, 1000, "0.5")]


# The run: its life


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.RUNNING])
def test_run_ends_as_the_training_did(status, client, tmp_path):
    words = {Status.COMPLETED: "FINISHED", Status.STOPPED: "FINISHED", Status.FAILED: "FAILED"}
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1, 1)
    journal.end(status)
    assert journal.deliver() is None
    assert [run.info.status for run in runs_of(client, journal)] == [words.get(status, "KILLED")]


def test_resumed_run_goes_on_in_the_same_place(client, journal):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5)
    worker = journal.start_worker()
    journal.log(6, 9)
    wait_for(lambda: worker.pending() == 0)
    (run,) = runs_of(client, journal)
    assert run.info.status == "RUNNING"
    worker.finish()
    wait_for(lambda: worker.is_done)
    (run,) = runs_of(client, journal)
    assert run.info.status == "KILLED"
    assert stored_points(client(), run.info.run_id) == journal.points()


def test_run_that_a_killed_session_could_not_remember_is_found(client, journal):
    journal.begin()
    journal.log(1, 3)
    journal.deliver()
    journal.forget(cursor=0, reference="{}")
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert run.info.status == "FINISHED"


def test_another_place_gets_everything_even_after_a_kill_on_the_way(client, journal, tmp_path, monkeypatch):
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", databases().copy(tmp_path / "other.db"))
    journal.begin(first_step=5)
    journal.log(6, 6)
    # Killed when the new run is made, and delivery has not gone back to the first record.
    store = DeliveryStore(journal.directory)
    (entry,) = JournalReader(journal.directory).sinks(journal.run.id)
    standing = Standing(
        confirmed=store.read(journal.run.id, "mlflow").cursor,
        reference=journal.reference,
        remember=lambda values: store.remember(journal.run.id, "mlflow", values),
    )
    assert make_tracker(entry).open(journal.run, standing) == 0
    assert runs_of(client, journal)
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert journal.reference["must_resend"] is False


def test_deleted_run_is_not_brought_back_but_named(client, journal):
    journal.begin()
    journal.log(1, 3)
    journal.deliver()
    (run,) = runs_of(client, journal)
    client().delete_run(run.info.run_id)
    journal.log(4, 6)
    journal.end()
    assert f"the run {run.info.run_id} was deleted in MLflow" in journal.deliver()
    client().restore_run(run.info.run_id)
    assert journal.deliver() is None
    assert stored_points(client(), run.info.run_id) == journal.points()


def test_rewind_is_told_in_tags_and_the_new_values_come(client, journal):
    journal.recorder.is_deterministic = True
    journal.begin()
    journal.log(1, 2)
    resumed_at = journal.recorder.whereabouts()
    journal.log(3, 6)
    journal.deliver()
    for number in (1, 2):
        journal.begin(first_step=2, resumed_at=resumed_at)
        journal.note(Kind.LOG, 3, {"loss": 100.0 + number})
        assert journal.deliver() is None
        (run,) = runs_of(client, journal)
        assert run.data.tags["loopwright.rewound_to_step"] == "3"
        assert run.data.tags["loopwright.num_rewinds"] == str(number)
    assert set(journal.points()) <= set(stored_points(client(), run.info.run_id))


def test_branch_and_trial_are_named_in_tags(client, tmp_path):
    branch = Journal(tmp_path / "branch", parent_id="f" * 32, parent_step=40)
    trial = Journal(tmp_path / "trial", trial_name="trial-3", trial_parameters={"lr": 0.1}, parameters={"lr": 0.1})
    for journal in (branch, trial):
        journal.begin()
        journal.log(1, 1)
        journal.end()
        assert journal.deliver() is None
    (run,) = runs_of(client, branch)
    assert run.data.tags["loopwright.parent_run_id"] == "f" * 32
    assert run.data.tags["loopwright.parent_step"] == "40"
    (run,) = runs_of(client, trial)
    assert (run.data.tags["loopwright.trial"], run.info.run_name) == ("trial-3", "trial-3")
    assert run.data.params == {"lr": "0.1"}


# Parameters


def test_parameters_that_come_again_or_changed_raise_nothing(client, journal, tmp_path):
    for attempt, seed in enumerate((1, 1, 2)):
        object.__setattr__(journal.run, "parameters", {"seed": seed, "lr": 0.1, f"new_{attempt}": True})
        journal.begin()
        journal.log(1, 1)
        journal.end()
        assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert run.data.params == {"seed": "1", "lr": "0.1", "new_0": "True", "new_1": "True", "new_2": "True"}
    assert run.data.tags["loopwright.changed_parameters"] == "seed"


@pytest.mark.parametrize(("most", "held"), [("2", ["a.b", "a.c.d"]), ("many", ["a.b", "a.c.d", "e", "f"])])
def test_variables_flatten_and_limit_parameters(most, held, client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_FLATTEN_PARAMS", "TRUE")
    monkeypatch.setenv("MLFLOW_MAX_LOG_PARAMS", most)
    journal = Journal(tmp_path / "out", parameters={"a": {"b": 1, "c": {"d": 2}}, "e": {}, "f": [3]})
    journal.begin()
    journal.log(1, 1)
    journal.end()
    assert journal.deliver() is None
    assert [sorted(run.data.params) for run in runs_of(client, journal)] == [held]


# In the database and on the server


@both_places
def test_mlflow_holds_every_point_of_the_journal(place, client, tmp_path):
    journal = Journal(tmp_path / "out", name="first", arguments={"seed": 7}, parameters={"seed": 7, "layers": [1, 2]})
    journal.begin()
    journal.log(1, 5, note="a text")
    journal.note(Kind.LOG, 5, {"eval_loss": math.nan, "eval_f1": {"cats": 0.5}, "eval_is_good": True})
    journal.note(Kind.LOG, 6, {"loss": math.inf, "grad_norm": -math.inf, "total_flos": 10**400})
    journal.note(Kind.PREDICTION, 6, {"test_loss": 0.25})
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    held = stored_points(client(), run.info.run_id)
    assert held == journal.points()
    assert {name for name, *_ in held} >= {"train/loss", "eval/loss", "eval/f1/cats", "test/loss"}
    assert (run.info.run_name, run.info.status, run.data.params) == (
        "first",
        "FINISHED",
        {"seed": "7", "layers": "[1, 2]"},
    )
    assert run.info.start_time == int(journal.run.created_at * 1000)
    assert run.info.end_time == max(moment for _, _, moment, _ in held)


@both_places
def test_records_that_come_again_stay_single(place, client, journal):
    journal.begin()
    journal.log(1, 20, eval_loss=math.nan)
    journal.deliver()
    # Killed when all was written, and nothing of it noted.
    journal.forget(cursor=0)
    journal.log(21, 25)
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()


def test_curve_of_nothing_but_nan_is_asked_for_once_a_session(client, journal, monkeypatch):
    from mlflow import MlflowClient

    asked, history = [], MlflowClient.get_metric_history
    monkeypatch.setattr(MlflowClient, "get_metric_history", lambda *place: asked.append(place[-1]) or history(*place))
    journal.begin()
    journal.log(1, 5, loss=math.nan)
    worker = journal.start_worker()
    wait_for(lambda: worker.pending() == 0)
    for step in range(6, 9):
        journal.log(step, step, loss=math.nan)
        wait_for(lambda: worker.pending() == 0)
    worker.finish()
    assert worker.join(60)
    assert asked == ["train/loss"]
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()


@both_places
def test_parameters_over_the_limits_are_cut_and_stored_whole(place, client, tmp_path, caplog):
    parameters = {"long": "x" * 7000, "b@d": None} | {f"p{number}": number for number in range(250)}
    journal = Journal(tmp_path / "out", parameters=parameters)
    journal.begin()
    journal.log(1, 1)
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert len(run.data.params) == 252
    assert (run.data.params["long"], run.data.params["b_d"]) == ("x" * 6000, "None")
    assert [line for line in caplog.messages if "parameters" in line] == [
        "mlflow: 252 of 252 parameters are logged, 1 cut to 6000 characters; all will be in parameters.json"
    ]
    from mlflow.artifacts import load_dict

    assert load_dict(f"{run.info.artifact_uri}/parameters.json") == parameters


def test_server_that_is_killed_and_comes_back_gets_each_point_once(server, client, journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    journal.begin()
    journal.log(1, 10)
    worker = journal.start_worker()
    wait_for(lambda: worker.pending() == 0)
    journal.log(11, 400)
    time.sleep(0.05)  # in the midst of it
    server.kill()
    journal.log(401, 420)
    wait_for(lambda: worker.error is not None)
    assert f"nothing answers at {server.url}" in worker.error or "Connection aborted" in worker.error
    server.start()
    server.wait()
    wait_for(lambda: worker.pending() == 0, seconds=120)  # the next try may be a minute away
    worker.finish()
    wait_for(lambda: worker.is_done)
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()


def test_server_that_falls_silent_is_waited_for_as_long_as_the_user_says(server, client, journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    journal.begin()
    journal.log(1, 3)
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert journal.deliver() is not None
        assert time.monotonic() - began < 30
    finally:
        server.signal(signal.SIGCONT)
    journal.end()
    wait_for(lambda: journal.deliver() is None)
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
