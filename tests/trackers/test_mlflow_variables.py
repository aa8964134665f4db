"""Each of MLflow's variables does what it says, and what can't be is named at once, without passwords."""

from __future__ import annotations

import time

import pytest

from loopwright.errors import MissingExtra
from loopwright.records import Kind
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.placement import Placement, place
from tests.trackers.mlflow_service import Journal, runs_of, stored_points

pytest_plugins = ("tests.trackers.mlflow_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("own_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


def test_experiment_is_found_by_its_name_and_made_once(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Mine")
    journals = [Journal(tmp_path / name) for name in ("one", "two")]
    assert [journal.deliver_one_line() for journal in journals] == [None, None]
    experiment = client().get_experiment_by_name("Mine").experiment_id
    assert [len(runs_of(client, journal, experiment)) for journal in journals] == [1, 1]
    client().delete_experiment(experiment)
    assert "the MLflow experiment 'Mine' was deleted" in Journal(tmp_path / "three").deliver_one_line()


def test_experiment_id_is_a_second_way_to_name_it(client, journal, monkeypatch):
    experiment = client().create_experiment("Other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    assert journal.deliver_one_line() is None
    assert len(runs_of(client, journal, experiment)) == 1


def test_tags_are_set(client, journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TAGS", '{"release.candidate": "RC1", "n": 3}')
    assert journal.deliver_one_line() is None
    (run,) = runs_of(client, journal)
    assert (run.data.tags["release.candidate"], run.data.tags["n"]) == ("RC1", "3")


@pytest.mark.parametrize("text", ["{'a': 1}", "[1]"])
def test_tags_that_are_no_json_object_are_named_where_the_user_sees_it(text, client, journal, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TAGS", text)
    assert MLflowCallback().why_off() is None
    expected = 'expected a JSON object such as {"release.version": "2.2.0"}; no tags are set'
    assert caplog.messages == [f"environment variable MLFLOW_TAGS={text!r}: {expected}"]
    assert journal.deliver_one_line() is None
    assert len(runs_of(client, journal)) == 1


def test_run_id_goes_on_with_that_run(client, journal, monkeypatch):
    there = client().create_run("0", run_name="theirs")
    client().log_metric(there.info.run_id, "theirs", 1.0)
    client().set_terminated(there.info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", there.info.run_id)
    assert journal.deliver_one_line() is None
    (run,) = runs_of(client, journal)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (there.info.run_id, "theirs", "FINISHED")
    assert set(journal.points()) < set(stored_points(client(), run.info.run_id))


def test_run_id_of_no_run_is_named(journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert f"MLflow has no run {'0' * 32}" in journal.deliver_one_line()


def test_trials_become_children_of_the_run_id(client, tmp_path, monkeypatch):
    experiment = client().create_experiment("Search")
    study = client().create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", study)
    for number in (1, 2):
        assert Journal(tmp_path / f"run-{number}", trial_name=f"trial-{number}").deliver_one_line() is None
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
    assert place(MLflowCallback()).place != "off"
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    assert place(MLflowCallback()) == Placement(
        "off", "DISABLE_MLFLOW_INTEGRATION says so", "loopwright.trackers.mlflow:MLflowCallback"
    )


def test_without_the_sdk_the_constructor_says_what_to_install(monkeypatch):
    monkeypatch.setattr("loopwright._support.extras.is_installed", lambda module: False)
    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[mlflow\]"'):
        MLflowCallback()


# Where it is


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db"])
def test_database_is_found_again_from_another_directory(uri, client, journal, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert journal.deliver_one_line() is None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert journal.deliver_one_line(step=2) is None
    monkeypatch.chdir(tmp_path)
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert not (tmp_path / "elsewhere" / "mlflow.db").exists()
    assert journal.reference["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_password_is_kept_nowhere_and_asked_for_again(journal, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setattr("tests.trackers.journals.read_all", lambda names: {})  # as Reporting leaves it out
    began = time.monotonic()
    assert journal.deliver_one_line().endswith("nothing answers at http://***@127.0.0.1:9")
    assert time.monotonic() - began < 20
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "set MLFLOW_TRACKING_URI, as no password is kept" in journal.deliver()
    assert not any("hunter2" in line for line in caplog.messages)
    files = [file for file in journal.directory.parent.rglob("*") if file.is_file()]
    assert not any(b"hunter2" in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "file:///nowhere",
            "MLflow keeps no runs in plain files any more: set MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        ),
        ("sqlite:///.", "can't be written as a database"),
        ("bogus://x", "unsupported URI 'bogus://x'"),
    ],
)
def test_place_that_can_not_be_is_named_at_once(uri, words, journal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    assert words in journal.deliver_one_line()
    assert time.monotonic() - began < 15
