"""MLflow holds what the journal holds: in a database and on a server, after kills, resumes and outages."""

from __future__ import annotations

import math
import signal
import time

import pytest

from loopwright.delivery.sink import Standing
from loopwright.delivery.store import DeliveryStore
from loopwright.errors import MissingExtra
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import mlflow as tracker_module
from loopwright.trackers import mlflow_client
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.placement import Placement
from loopwright.trackers.placement import place as find_place
from loopwright.trackers.registry import make_tracker
from tests.trackers.mlflow_service import Databases, Journal, Server, stored_points, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    return Databases(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module", autouse=True)
def starting_server(tmp_path_factory, databases):
    """A server that takes its 13 to 40 s to start while other tests run."""
    server = Server(tmp_path_factory.mktemp("server"), databases)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(starting_server):
    starting_server.wait()
    return starting_server


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path, databases):
    """No variable from elsewhere; a database of the test's own."""
    for name in (*MLflowCallback.variables, *mlflow_client._WAITING, "DISABLE_MLFLOW_INTEGRATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", databases.copy(tmp_path / "mlflow.db"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(request, monkeypatch):
    """The database, or the server, by indirect parametrization."""
    if getattr(request, "param", "database") == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server").url)


@pytest.fixture
def client():
    """Return a function that makes a client of the present place."""
    from mlflow import MlflowClient

    return MlflowClient


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out")


both_places = pytest.mark.parametrize("place", ["database", "server"], indirect=True)


def runs_of(client, journal, experiment="0"):
    return client().search_runs([experiment], f"tags.`loopwright.run_id` = '{journal.run.id}'")


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


def test_another_place_gets_everything_even_after_a_kill_on_the_way(client, journal, databases, tmp_path, monkeypatch):
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", databases.copy(tmp_path / "other.db"))
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


# Variables


def deliver_one_line(journal, step=1):
    journal.begin()
    journal.log(step, step)
    journal.end()
    return journal.deliver()


def test_experiment_is_found_by_its_name_and_made_once(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Mine")
    journals = [Journal(tmp_path / name) for name in ("one", "two")]
    assert [deliver_one_line(journal) for journal in journals] == [None, None]
    experiment = client().get_experiment_by_name("Mine").experiment_id
    assert [len(runs_of(client, journal, experiment)) for journal in journals] == [1, 1]
    client().delete_experiment(experiment)
    assert "the MLflow experiment 'Mine' was deleted" in deliver_one_line(Journal(tmp_path / "three"))


def test_experiment_id_is_a_second_way_to_name_it(client, journal, monkeypatch):
    experiment = client().create_experiment("Other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    assert deliver_one_line(journal) is None
    assert len(runs_of(client, journal, experiment)) == 1


def test_tags_are_set(client, journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TAGS", '{"release.candidate": "RC1", "n": 3}')
    assert deliver_one_line(journal) is None
    (run,) = runs_of(client, journal)
    assert (run.data.tags["release.candidate"], run.data.tags["n"]) == ("RC1", "3")


@pytest.mark.parametrize("text", ["{'a': 1}", "[1]"])
def test_tags_that_are_no_json_object_are_named_where_the_user_sees_it(text, client, journal, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TAGS", text)
    assert MLflowCallback().why_off() is None
    expected = 'expected a JSON object such as {"release.version": "2.2.0"}; no tags are set'
    assert caplog.messages == [f"environment variable MLFLOW_TAGS={text!r}: {expected}"]
    assert deliver_one_line(journal) is None
    assert len(runs_of(client, journal)) == 1


def test_run_id_goes_on_with_that_run(client, journal, monkeypatch):
    there = client().create_run("0", run_name="theirs")
    client().log_metric(there.info.run_id, "theirs", 1.0)
    client().set_terminated(there.info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", there.info.run_id)
    assert deliver_one_line(journal) is None
    (run,) = runs_of(client, journal)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (there.info.run_id, "theirs", "FINISHED")
    assert set(journal.points()) < set(stored_points(client(), run.info.run_id))


def test_run_id_of_no_run_is_named(journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert f"MLflow has no run {'0' * 32}" in deliver_one_line(journal)


def test_trials_become_children_of_the_run_id(client, tmp_path, monkeypatch):
    experiment = client().create_experiment("Search")
    study = client().create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", study)
    for number in (1, 2):
        assert deliver_one_line(Journal(tmp_path / f"run-{number}", trial_name=f"trial-{number}")) is None
    children = client().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study}'")
    assert {run.data.tags["loopwright.trial"] for run in children} == {"trial-1", "trial-2"}


@pytest.mark.parametrize(("text", "held"), [("1", ["checkpoint-2"]), ("FALSE", [])])
def test_checkpoints_become_artifacts_where_asked_for(text, held, client, journal, monkeypatch):
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", text)
    inner = journal.directory / "checkpoint-2" / "inner"
    inner.mkdir(parents=True)
    (inner / "model.bin").write_bytes(b"weights")
    journal.begin()
    journal.note(Kind.CHECKPOINT, 2, {"path": "checkpoint-2"})
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert [file.path for file in client().list_artifacts(run.info.run_id)] == held
    if held:
        (stored,) = client().list_artifacts(run.info.run_id, "checkpoint-2/inner")
        assert (stored.path, stored.file_size) == ("checkpoint-2/inner/model.bin", 7)


def test_disabled_it_is_off(monkeypatch):
    assert find_place(MLflowCallback()).place != "off"
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    assert find_place(MLflowCallback()) == Placement(
        "off", "DISABLE_MLFLOW_INTEGRATION says so", "loopwright.trackers.mlflow:MLflowCallback"
    )


def test_without_the_sdk_the_constructor_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tracker_module, "is_installed", lambda module: False)
    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[mlflow\]"'):
        MLflowCallback()


# Where it is


def test_default_database_is_found_again_from_another_directory(client, journal, databases, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver_one_line(journal) is None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert deliver_one_line(journal, step=2) is None
    monkeypatch.chdir(tmp_path)
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert not (tmp_path / "elsewhere" / "mlflow.db").exists()


def test_password_is_kept_nowhere_and_asked_for_again(journal, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setattr("tests.trackers.mlflow_service.read_all", lambda names: {})  # as Reporting leaves it out
    began = time.monotonic()
    assert deliver_one_line(journal).endswith("nothing answers at http://***@127.0.0.1:9")
    assert time.monotonic() - began < 20
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "set MLFLOW_TRACKING_URI, as no password is kept" in journal.deliver()
    assert not any("secret" in line for line in caplog.messages)
    files = [file for file in journal.directory.parent.rglob("*") if file.is_file()]
    assert not any(b"secret" in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "file:///nowhere",
            "MLflow keeps no runs in plain files any more: set MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        ),
        ("sqlite:////proc/none/mlflow.db", "/proc/none/mlflow.db can't be written"),
        ("bogus://x", "unsupported URI 'bogus://x'"),
    ],
)
def test_place_that_can_not_be_is_named_at_once(uri, words, journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    assert words in deliver_one_line(journal)
    assert time.monotonic() - began < 15


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
    wait_for(lambda: worker.pending() == 0)
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
