"""DagsHub's MLflow holds what the journal holds, its repository the checkpoints: after kills, resumes and outages."""

from __future__ import annotations

import datetime
import getpass
import math
import os
import subprocess
import sys
import time
import webbrowser

import pytest

from loopwright.errors import ArgumentError, MissingExtra, TrackerError
from loopwright.records import Kind, Status
from loopwright.trackers import dagshub_client
from loopwright.trackers.dagshub import DagsHubCallback
from loopwright.trackers.dagshub_client import Repository, upload
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.placement import place
from loopwright.trackers.registry import reporting_callbacks
from tests.trackers.dagshub_service import TOKEN, DagsHub, Journal
from tests.trackers.mlflow_service import recorded_points, runs_of, stored_points, wait_for
from tests.trackers.trainings import build, deliver_what_is_left

pytest_plugins = ("tests.trackers.mlflow_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("starting_server", "at_nowhere"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]

FILES = {"model.bin": bytes(range(256)) * 9, "inner/lines.txt": b"a\r\nb\n\r\n", "inner/empty": b""}


@pytest.fixture
def at_nowhere(own_environment, monkeypatch, tmp_path):
    """No variable from elsewhere, none left behind, and no login stored."""
    for name in (
        *(set(DagsHubCallback.variables) - set(MLflowCallback.variables)),
        *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        "DAGSHUB_USER_TOKEN",
    ):
        monkeypatch.setenv(name, "")  # so that it is taken away afterwards, whoever sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSHUB_CLIENT_TOKENS_CACHE", str(tmp_path / "tokens"))
    monkeypatch.setattr("loopwright._support.log._said", set())
    monkeypatch.setattr(webbrowser, "open", lambda *args: pytest.fail("nobody is to be asked"))


@pytest.fixture
def dagshub(monkeypatch):
    """The stand-in without MLflow, and the variables that name it."""
    dagshub = DagsHub()
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", dagshub.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{dagshub.url}/o/r.mlflow")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    yield dagshub
    dagshub.gate.set()
    dagshub.stop()


@pytest.fixture
def whole(dagshub, server):
    """The stand-in, MLflow's server behind it."""
    dagshub.mlflow = server.url
    return dagshub


@pytest.fixture
def client(server):
    """Return a function that makes a client of the MLflow server itself, where nobody has to say who they are."""
    from mlflow import MlflowClient

    return lambda: MlflowClient(tracking_uri=server.url)


@pytest.fixture
def journal(at_nowhere, tmp_path):
    return Journal(tmp_path / "out")


def uploaded(files, directory):
    return {f"artifacts/{directory}/{name}": content for name, content in files.items()}


# Where it is


@pytest.mark.parametrize(
    ("uri", "host", "is_on"),
    [
        ("https://dagshub.com/o/r.mlflow", None, True),
        ("https://dagshub.com:443/o/r.mlflow/", "https://dagshub.com/", True),
        ("https://me:pass@dagshub.com/o/r.mlflow", None, True),
        ("http://10.0.0.1:3000/o/r.mlflow", "http://10.0.0.1:3000", True),
        (None, None, False),
        ("sqlite:///mlflow.db", None, False),
        ("https://dagshub.com/o/r", None, False),
        ("http://dagshub.com/o/r.mlflow", None, False),  # the token would go there for all to read
        ("https://dagshub.com.evil.org/o/r.mlflow", None, False),
        ("https://dagshub.com/o/r.mlflow", "https://hub.example.org", False),
        ("https://dagshub.com:nine/o/r.mlflow", None, False),
    ],
)
def test_it_is_on_where_mlflow_is_a_repository_of_dagshub(uri, host, is_on, monkeypatch):
    for name, text in {"MLFLOW_TRACKING_URI": uri, "DAGSHUB_CLIENT_HOST": host}.items():
        if text is not None:
            monkeypatch.setenv(name, text)
    placed = place(DagsHubCallback())
    assert (placed.place != "off") is is_on
    if not is_on:
        found = "is not set" if uri is None else f"is {uri}"
        expected = f"expected {host or 'https://dagshub.com'}/<owner>/<repo>.mlflow"
        assert placed.reason == f"MLFLOW_TRACKING_URI {found}: {expected}"


def test_what_switches_mlflow_off_switches_it_off(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://dagshub.com/o/r.mlflow")
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    assert DagsHubCallback().why_off() == "DISABLE_MLFLOW_INTEGRATION says so"


def test_password_in_the_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@dagshub.com/o/r.mlflow")
    assert "is http://***@dagshub.com/o/r.mlflow:" in DagsHubCallback().why_off()


def test_plain_mlflow_reports_where_dagshub_does_not(monkeypatch):
    kinds = {type(tracker) for tracker in reporting_callbacks(["dagshub", "mlflow"], [])}
    assert kinds == {DagsHubCallback, MLflowCallback}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://dagshub.com/o/r.mlflow")
    assert [type(tracker) for tracker in reporting_callbacks(["dagshub", "mlflow"], [])] == [DagsHubCallback]


@pytest.mark.parametrize("missing", ["dagshub", "mlflow"])
def test_without_an_sdk_the_constructor_says_what_to_install(missing, monkeypatch):
    monkeypatch.setattr("loopwright._support.extras.is_installed", lambda module: module != missing)
    with pytest.raises(MissingExtra, match=rf'the package {missing}: pip install "loopwright\[dagshub\]"'):
        DagsHubCallback()


def test_flag_that_is_neither_yes_nor_no_is_named(monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "perhaps")
    with pytest.raises(ArgumentError, match="HF_DAGSHUB_LOG_ARTIFACTS='perhaps': expected one of"):
        DagsHubCallback().wants_checkpoints()


# Who reports


def test_without_credentials_it_says_which_to_set_and_everything_waits(whole, client, journal, monkeypatch):
    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    began = time.monotonic()
    error = journal.deliver_one_line()
    assert f"no credentials for {whole.url} are known: set DAGSHUB_USER_TOKEN, or MLFLOW_TRACKING_USERNAME" in error
    assert time.monotonic() - began < 20
    assert whole.asked == []
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()


def test_stored_login_is_used_without_asking_the_service_about_it(whole, client, journal, tmp_path, monkeypatch):
    from dagshub.auth.token_auth import AppDagshubToken, OAuthDagshubToken
    from dagshub.auth.tokens import TokenStorage

    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    storage = TokenStorage(str(tmp_path / "tokens"))
    over = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    storage.add_token(OAuthDagshubToken("over", over), whole.url, skip_validation=True)
    storage.add_token(OAuthDagshubToken("second", over + datetime.timedelta(days=9)), whole.url, skip_validation=True)
    storage.add_token(AppDagshubToken(TOKEN), whole.url, skip_validation=True)
    storage.add_token(AppDagshubToken("another's"), "https://dagshub.com", skip_validation=True)
    stored = (tmp_path / "tokens").read_bytes()
    journal.begin()
    journal.log(1, 2)
    journal.checkpoint(2, FILES)
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert whole.branches["main"] == uploaded(FILES, "checkpoint-2")
    assert not [path for path in whole.asked if path.startswith("/api/v1/user")]
    assert (tmp_path / "tokens").read_bytes() == stored


def test_stored_logins_that_can_not_be_read_are_named(dagshub, journal, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    (tmp_path / "tokens").write_text("- not: [right")
    assert "no credentials" in journal.deliver_one_line()
    assert len([line for line in caplog.messages if f"the tokens in {tmp_path / 'tokens'} can't be read" in line]) == 1


@pytest.mark.parametrize("variables", [{"USERNAME": "me"}, {"USERNAME": "me", "PASSWORD": TOKEN}])
def test_mlflows_own_variables_come_first(variables, whole, client, journal, monkeypatch):
    whole.user = "me"
    for name, text in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", text)
    if len(variables) == 2:
        monkeypatch.setenv("DAGSHUB_USER_TOKEN", "another's")
    assert journal.deliver_one_line() is None
    assert len(runs_of(client, journal)) == 1


def test_secrets_are_kept_nowhere(whole, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    journal.begin()
    journal.checkpoint(1, {"a": b"b"})
    journal.end()
    assert journal.deliver() is None
    files = [file for file in journal.directory.parent.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in file.read_bytes() for file in files)


# Points


@pytest.mark.parametrize(
    "variables", [("DAGSHUB_USER_TOKEN",), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")]
)
def test_nobody_who_looks_at_the_run_sees_the_token(variables, whole, client, journal, monkeypatch):
    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    for name in variables:  # the second are as `dagshub.init()` sets them
        monkeypatch.setenv(name, TOKEN)
    assert journal.deliver_one_line() is None
    (run,) = runs_of(client, journal)
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert TOKEN not in str(run.to_dictionary())


def test_its_mlflow_holds_every_point_of_the_journal(whole, client, tmp_path):
    journal = Journal(tmp_path / "out", name="first", parameters={"seed": 7})
    journal.begin()
    journal.log(1, 5, note="a text")
    journal.note(Kind.LOG, 5, {"eval_loss": math.nan, "eval_f1": {"cats": 0.5}, "eval_is_good": True})
    journal.note(Kind.LOG, 6, {"loss": math.inf, "total_flos": 10**400})
    journal.note(Kind.PREDICTION, 6, {"test_loss": 0.25})
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert (run.info.run_name, run.info.status, run.data.params) == ("first", "FINISHED", {"seed": "7"})
    assert journal.reference["shown_at"] == f"{whole.url}/o/r.mlflow (run {run.info.run_id})"


def test_resumed_run_goes_on_in_the_same_place_and_a_branch_names_its_parent(whole, client, journal, tmp_path):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    journal.forget(cursor=0)
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    branch = Journal(tmp_path / "branch", parent_id=journal.run.id, parent_step=5)
    assert branch.deliver_one_line() is None
    (other,) = runs_of(client, branch)
    assert other.info.run_id != run.info.run_id
    assert other.data.tags["loopwright.parent_run_id"] == journal.run.id


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_errors_that_dagshub_has_swallowed_are_seen(whole, client, journal, monkeypatch):
    from dagshub.mlflow import patch_mlflow, unpatch_mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.rest_store import RestStore

    genuine = RestStore.log_batch

    def fail(*args, **kwargs):
        raise MlflowException("out of order")

    patch_mlflow()
    try:
        monkeypatch.setattr(RestStore, "log_batch", fail)
        assert "out of order" in journal.deliver_one_line()
        monkeypatch.setattr(RestStore, "log_batch", genuine)
        assert journal.deliver() is None
    finally:
        unpatch_mlflow()
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()


# Checkpoints


def test_each_checkpoint_is_uploaded_once_and_nothing_else(whole, client, journal, monkeypatch, capfd):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "TRUE")
    journal.begin()
    journal.log(1, 2)
    journal.checkpoint(2, FILES)
    journal.log(3, 4)
    journal.checkpoint(4, {"model.bin": b"4"})
    (journal.directory / "notes.txt").write_text("mine")
    journal.end()
    assert journal.deliver() is None
    assert whole.branches == {"main": uploaded(FILES, "checkpoint-2") | uploaded({"model.bin": b"4"}, "checkpoint-4")}
    num_uploads = len(whole.uploads)
    journal.forget(cursor=0)  # killed when all was done, and nothing of it noted
    assert journal.deliver() is None
    assert len(whole.uploads) == num_uploads
    (run,) = runs_of(client, journal)
    assert client().list_artifacts(run.info.run_id) == []
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert "upload" not in "".join(capfd.readouterr()).lower()  # MLflow names the run when it ends
    short = journal.run.short_id
    assert dict.fromkeys(whole.commits) == dict.fromkeys(
        [("main", f"checkpoint-2 of {short}"), ("main", f"checkpoint-4 of {short}")]
    )


@pytest.mark.parametrize(("dagshubs", "mlflows"), [("1", "1"), ("0", "1"), ("0", "0")])
def test_mlflow_takes_checkpoints_by_a_variable_of_its_own(dagshubs, mlflows, whole, client, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", dagshubs)
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", mlflows)
    journal.begin()
    journal.checkpoint(2, {"model.bin": b"2"})
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    found = [(file.path, file.file_size) for file in client().list_artifacts(run.info.run_id, "checkpoint-2")]
    assert found == ([("checkpoint-2/model.bin", 1)] if mlflows == "1" else [])
    assert whole.branches["main"] == (uploaded({"model.bin": b"2"}, "checkpoint-2") if dagshubs == "1" else {})


def test_branch_and_model_name_are_used(whole, tmp_path, monkeypatch):
    whole.branches["main"]["README.md"] = b"hello"
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    monkeypatch.setenv("BRANCH", "models")
    monkeypatch.setenv("HF_DAGSHUB_MODEL_NAME", "llama")
    journal = Journal(tmp_path / "out", name="first")
    journal.begin()
    journal.checkpoint(2, FILES)
    journal.end()
    assert journal.deliver() is None
    assert whole.branches == {
        "main": {"README.md": b"hello"},
        "models": {"README.md": b"hello"} | uploaded(FILES, "checkpoint-2"),
    }
    assert set(whole.commits) == {("models", "llama: checkpoint-2 of first")}


def test_checkpoint_that_is_written_again_replaces_the_first(whole, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    for content in (b"first", b"second"):
        journal.begin()
        journal.checkpoint(2, {"model.bin": content})
        journal.end()
        assert journal.deliver() is None
        assert whole.branches["main"] == uploaded({"model.bin": content}, "checkpoint-2")


def test_other_repository_or_branch_gets_them_again(whole, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    journal.begin()
    journal.checkpoint(2, FILES)
    assert journal.deliver() is None
    monkeypatch.setenv("BRANCH", "other")
    journal.begin()
    journal.end()
    journal.forget(cursor=0)
    assert journal.deliver() is None
    assert whole.branches["other"] == uploaded(FILES, "checkpoint-2")


def test_without_a_token_checkpoints_are_left_and_said_once(whole, client, journal, monkeypatch, caplog):
    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", TOKEN)
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    journal.begin()
    for step in (1, 2):
        journal.log(step, step)
        journal.checkpoint(step, FILES)
    journal.end()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert whole.uploads == []
    words = f"dagshub: no token for {whole.url} is known, checkpoints are not uploaded: set DAGSHUB_USER_TOKEN"
    assert len([line for line in caplog.messages if words in line]) == 1


# Outages


def test_metrics_do_not_wait_for_files_and_files_come_later(whole, client, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    whole.refuses = 403
    journal.begin()
    journal.log(1, 2)
    journal.checkpoint(2, FILES)
    journal.log(3, 3)
    journal.checkpoint(3, {"model.bin": b"3"})
    journal.log(4, 4)
    journal.end()
    began = time.monotonic()
    error = journal.deliver()
    assert time.monotonic() - began < 20
    assert "checkpoint-2, checkpoint-3 could not be uploaded: RuntimeError: Got status code 403" in error
    assert whole.asked.count("/api/v1/repos/o/r") == 1  # a silent one would be waited for each time
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert run.info.status == "FINISHED"
    whole.refuses = None
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert run.info.status == "FINISHED"
    assert whole.branches["main"] == uploaded(FILES, "checkpoint-2") | uploaded({"model.bin": b"3"}, "checkpoint-3")


def test_files_that_failed_come_with_the_next_checkpoint(whole, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    monkeypatch.setattr("loopwright.trackers.dagshub._PAUSE_SECONDS", 0.0)
    whole.refuses = 403
    journal.begin()
    worker = journal.start_worker()
    journal.log(1, 1)
    journal.checkpoint(1, {"model.bin": b"1"})
    journal.log(2, 2)
    wait_for(lambda: worker.pending() == 2)  # the checkpoint, and what comes after it
    whole.refuses = None
    journal.checkpoint(2, {"model.bin": b"2"})
    wait_for(lambda: worker.pending() == 0)
    worker.finish()
    wait_for(lambda: worker.is_done)
    files = [uploaded({"model.bin": b"%d" % step}, f"checkpoint-{step}") for step in (1, 2)]
    assert whole.branches["main"] == files[0] | files[1]


def test_service_that_is_away_costs_little_and_loses_nothing(whole, client, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    whole.stop()
    journal.begin()
    journal.log(1, 3)
    journal.checkpoint(3, FILES)
    journal.end()
    began = time.monotonic()
    assert journal.deliver().endswith(f"nothing answers at {whole.url}")
    assert time.monotonic() - began < 20
    whole.start()
    assert journal.deliver() is None
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert whole.branches["main"] == uploaded(FILES, "checkpoint-3")


@pytest.mark.parametrize("num_failures", [2, 99])
def test_server_error_is_tried_again_with_the_same_bytes_and_named(num_failures, dagshub, tmp_path, monkeypatch):
    from dagshub.upload import Repo

    monkeypatch.setattr(Repo.upload_files.retry, "sleep", lambda seconds: None)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(FILES["model.bin"])
    dagshub.num_failures = num_failures
    if num_failures == 2:
        upload(Repository(dagshub.url, "o", "r"), tmp_path / "files", "into", token=TOKEN, message="a")
        assert dagshub.branches["main"] == {"into/a": FILES["model.bin"]}
    else:
        with pytest.raises(TrackerError, match=r"^InternalServerErrorError: out of order$"):
            upload(Repository(dagshub.url, "o", "r"), tmp_path / "files", "into", token=TOKEN, message="a")


def test_upload_ends_soon_where_nobody_answers(dagshub, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(b"a")
    to = {"path": tmp_path / "files", "into": "artifacts/files", "token": TOKEN, "message": "a"}
    repository = Repository(dagshub.url, "o", "r")
    assert dagshub_client._ASKING["connect"] + dagshub_client._ASKING["read"] <= 20
    monkeypatch.setitem(dagshub_client._UPLOADING, "read", 0.5)
    dagshub.gate.clear()
    with pytest.raises(TrackerError, match="did not answer in time"):
        upload(repository, **to)
    dagshub.gate.set()
    dagshub.stop()
    with pytest.raises(TrackerError, match=f"nothing answers at {dagshub.url}"):
        upload(repository, **to)


def test_client_is_left_as_it_was(dagshub, tmp_path):
    from dagshub.common import config

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(b"a")
    before = config.host, config.quiet
    upload(Repository(dagshub.url, "o", "r"), tmp_path / "files", "into", token=TOKEN, message="a")
    assert dagshub.branches["main"] == {"into/a": b"a"}
    assert (config.host, config.quiet) == before


def test_upload_that_a_kill_interrupts_comes_again_and_no_other(whole, client, journal, monkeypatch):
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    journal.begin()
    journal.log(1, 1)
    journal.checkpoint(1, {"model.bin": b"1"})
    journal.log(2, 2)
    journal.end()
    assert journal.deliver() is None
    whole.gate.clear()
    journal.begin()
    journal.checkpoint(2, {"model.bin": b"2"})
    journal.log(3, 3)
    journal.end()
    journal.recorder.close()
    command = [sys.executable, "-m", "loopwright", "sync", str(journal.directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(whole.uploads) == 2)
        finally:
            process.kill()
    whole.gate.set()
    deliver_what_is_left(journal.directory)
    assert [directory for _, directory in whole.uploads].count("artifacts/checkpoint-1") == 1
    assert [directory for _, directory in whole.uploads].count("artifacts/checkpoint-2") == 2
    files = [uploaded({"model.bin": b"%d" % step}, f"checkpoint-{step}") for step in (1, 2)]
    assert whole.branches["main"] == files[0] | files[1]
    assert len(whole.commits) == 2
    (run,) = runs_of(client, journal)
    assert stored_points(client(), run.info.run_id) == journal.points()
    assert run.info.status == "FINISHED"


# Beside a training

SCRIPT = """
import sys
from pathlib import Path
from tests.trackers.trainings import build

if __name__ == "__main__":
    build(
        Path("out"), report_to="all", run_name="beside", tracker_open_timeout=60, tracker_call_timeout=60,
        tracker_close_timeout=60,
    ).train()
    assert not {"mlflow", "dagshub"} & set(sys.modules)
"""


def test_delivery_process_brings_a_training_to_dagshub(whole, client, tmp_path):
    environment = {
        **{"HF_DAGSHUB_LOG_ARTIFACTS": "1", "MLFLOW_EXPERIMENT_NAME": "Beside"},
        **{**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    }
    (tmp_path / "script.py").write_text(SCRIPT.replace('"all"', '["dagshub", "mlflow"]'))
    command = [sys.executable, "script.py"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr
    (run,) = client().search_runs([client().get_experiment_by_name("Beside").experiment_id])
    assert stored_points(client(), run.info.run_id) == recorded_points(tmp_path / "out")
    assert (run.info.run_name, run.info.status) == ("beside", "FINISHED")
    on_disk = {
        f"artifacts/{file.relative_to(tmp_path / 'out').as_posix()}": file.read_bytes()
        for file in (tmp_path / "out").glob("checkpoint-*/**/*")
        if file.is_file()
    }
    assert on_disk
    assert whole.branches["main"] == on_disk


def test_in_the_programs_process_its_active_run_is_used(whole, client, tmp_path):
    import mlflow

    os.environ["MLFLOW_TRACKING_USERNAME"] = os.environ["MLFLOW_TRACKING_PASSWORD"] = TOKEN
    patient = {"tracker_open_timeout": 60, "tracker_call_timeout": 60, "tracker_close_timeout": 60}
    with mlflow.start_run() as active:
        build(tmp_path / "out", callbacks=[DagsHubCallback], **patient).train()
        assert mlflow.active_run() is active
    assert stored_points(client(), active.info.run_id) == recorded_points(tmp_path / "out")
