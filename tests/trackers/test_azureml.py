"""Azure ML's run holds what the journal holds, each number once: after kills, refusals and outages."""

from __future__ import annotations

import inspect
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopwright.delivery.store import DeliveryStore, read_delivered
from loopwright.errors import MissingExtra
from loopwright.integrations import AzureMLCallback, MLflowCallback
from loopwright.records import Kind, Status
from loopwright.trackers import azureml_session
from loopwright.trackers.description import recorded_variables
from loopwright.trackers.placement import place
from loopwright.trackers.registry import listed_trackers, reporting_callbacks
from tests.trackers.azureml_service import JOB, NAN, AzureML, Journal, stop_token_threads
from tests.trackers.azureml_workspace import Workspace
from tests.trackers.mlflow_service import recorded_points, stored_points
from tests.trackers.trainings import build, same_weights, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    """In no job, and with a home of the test's own, where the SDK keeps addresses."""
    names = [name for name in os.environ if name.startswith(("AZUREML_", "MLFLOW_"))]
    for name in (*names, *AzureMLCallback.variables, "AZUREML_RUN_TOKEN", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is taken away afterwards, whoever sets it
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    stop_token_threads()


@pytest.fixture
def azure(monkeypatch):
    """The stand-in, and the job's variables."""
    running = AzureML()
    for name, text in running.environment().items():
        monkeypatch.setenv(name, text)
    yield running
    running.stop()


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace's MLflow, and the job's variables for it."""
    running = Workspace(tmp_path)
    for name, text in running.environment().items():
        monkeypatch.setenv(name, text)
    yield running
    running.stop()


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo")


class Hide:
    """A path finder that has modules be absent."""

    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in self.names):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def hide(monkeypatch):
    """Return a function that has modules be absent."""

    def hide(*names):
        for name in [name for name in sys.modules if name in names or name.startswith(tuple(f"{n}." for n in names))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Hide(*names), *sys.meta_path])

    return hide


def deliver_whole(journal, last=5, status=Status.COMPLETED):
    journal.begin()
    journal.log(1, last)
    journal.end(status)
    return journal.deliver()


# Numbers


def test_job_holds_every_number_of_the_journal(azure, journal):
    journal.begin()
    journal.log(1, 30)
    journal.note(Kind.LOG, 30, {"eval_loss": math.nan, "eval_f1": {"cats": 0.5}, "eval_is_good": True, "note": "text"})
    journal.note(Kind.LOG, 31, {"loss": math.inf, "down": -math.inf, "huge": 10**400, "large": 2**70, "whole": 3})
    journal.note(Kind.PREDICTION, 31, {"test_loss": 0.25})
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()
    assert ("eval/loss", 30, NAN) in {(name, step, value) for name, step, _, value in azure.points()}
    assert azure.runs[JOB]["tags"] == {"loopwright.run_id": journal.run.id}
    assert azure.events == {}, "the job's run is Azure's to end"


def test_names_and_steps_are_such_that_a_metric_is_one_curve(azure, journal):
    journal.begin()
    journal.log(1, 3, loss=1, eval_loss=2.0)
    journal.end()
    assert journal.deliver() is None
    assert sorted(place[:2] for place in azure.points()) == [
        *(("eval/loss", step) for step in (1, 2, 3)),
        *(("train/loss", step) for step in (1, 2, 3)),
    ]


@pytest.mark.parametrize("is_whole", [False, True], ids=["by itself", "with its request"])
def test_metric_that_is_refused_is_left_out_and_all_others_arrive(is_whole, azure, journal, caplog):
    azure.refused, azure.refuses_whole = {"train/learning_rate"}, is_whole
    assert deliver_whole(journal) is None
    wanted = {place: number for place, number in journal.points().items() if place[0] != "train/learning_rate"}
    assert azure.points() == wanted
    said = "a bad request" if is_whole else "not that one"
    assert "azure_ml will not take record 1, left out: train/learning_rate: " in caplog.text
    assert said in caplog.text


@pytest.mark.parametrize("is_whole", [False, True])
def test_service_that_takes_nothing_at_all_loses_nothing(is_whole, azure, journal):
    azure.refused, azure.refuses_whole = {"train/loss", "train/learning_rate", "train/epoch"}, is_whole
    journal.begin()
    journal.log(1, 5)
    assert "Azure ML takes nothing: " in journal.deliver()
    azure.refused = set()
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()


def test_metric_that_the_service_can_not_store_just_now_is_tried_again(azure, journal):
    azure.refused, azure.error_code = {"train/loss"}, "ServiceError"
    journal.begin()
    journal.log(1, 5)
    assert "Azure ML doesn't take train/loss: ServiceError: not that one" in journal.deliver()
    azure.refused = set()
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()


# Each once


def test_what_was_taken_in_without_an_answer_is_not_sent_again(azure, journal):
    azure.loses_answers = True
    journal.begin()
    journal.log(1, 40)
    assert "Azure ML answered 500: (ServiceError) who knows" in journal.deliver()
    assert azure.points()
    azure.loses_answers = False
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()


def test_job_gets_once_what_a_killed_delivery_had_sent(azure, journal):
    journal.begin()
    journal.log(1, 30)
    journal.end()
    journal.recorder.close()
    program = """
import os, runpy, signal, sys
from loopwright.trackers import azureml
write = azureml.AzureMLCallback.write
def fatal(self, records):
    write(self, records[:20])
    os.kill(os.getpid(), signal.SIGKILL)
azureml.AzureMLCallback.write = fatal
sys.argv = ["loopwright", "sync", sys.argv[1]]
runpy.run_module("loopwright", run_name="__main__", alter_sys=True)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(journal.directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert azure.points().total() == 60
    assert journal.deliver() is None
    assert azure.points() == journal.points()


def test_nothing_counts_as_delivered_before_it_is_taken_in(azure, journal, monkeypatch):
    monkeypatch.setattr(azureml_session, "_INGEST_SECONDS", 0.1)
    monkeypatch.setattr(azureml_session, "_INGEST_PAUSE_SECONDS", 0.02)
    azure.is_ingesting = True
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    until = time.monotonic() + 30
    while azure.requests.count("GET metricsingest/wait") < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert worker.pending() == 5
    azure.is_ingesting = False
    journal.end()
    worker.finish()
    assert worker.join(30)
    assert worker.pending() == 0
    assert azure.points() == journal.points()


def test_what_is_not_taken_in_yet_is_waited_for_before_more_is_sent(azure, journal, monkeypatch):
    monkeypatch.setattr(azureml_session, "_INGEST_SECONDS", 0.1)
    monkeypatch.setattr(azureml_session, "_INGEST_PAUSE_SECONDS", 0.02)
    journal.begin()
    journal.log(1, 5)
    worker = journal.confirm()
    worker.stop()
    assert worker.join(30)
    azure.is_ingesting = True
    journal.forget(cursor=0)
    assert "Azure ML is still taking in what it was sent" in journal.deliver()
    azure.is_ingesting = False
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()


def test_evaluation_that_is_repeated_at_a_step_is_there_twice_as_in_the_journal(azure, journal):
    journal.begin()
    for _ in range(2):
        journal.note(Kind.LOG, 5, {"eval_loss": 0.25})
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()
    assert azure.points().total() == 2


# The run


def test_resumed_run_goes_on_in_the_job_and_what_it_contradicts_is_named(azure, journal):
    assert deliver_whole(journal, status=Status.FAILED) is None
    journal.begin(first_step=3)
    journal.note(Kind.REWIND, 4, {"from_step": 4})
    journal.log(4, 9, loss=7.0)
    journal.end()
    assert journal.deliver() is None
    assert journal.points().items() <= azure.points().items(), "the older ones stay beside them"
    assert azure.points().total() == 15 + 6
    assert azure.runs[JOB]["tags"]["loopwright.rewound_to_step"] == "4"


def test_another_job_gets_the_whole_run(azure, journal, monkeypatch):
    assert deliver_whole(journal, status=Status.PREEMPTED) is None
    first = azure.points()
    azure.add_run("job2")
    monkeypatch.setenv("AZUREML_RUN_ID", "job2")
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    assert journal.deliver() is None
    assert azure.points("job2") == journal.points()
    assert azure.points() == first
    journal.forget(cursor=0)
    assert journal.deliver() is None
    assert azure.points("job2") == journal.points()


@pytest.mark.parametrize(
    ("status", "event"), [(Status.COMPLETED, "Completed"), (Status.FAILED, "Failed"), (Status.KILLED, "Canceled")]
)
def test_trial_is_a_run_below_the_jobs_and_ends_as_it_did(status, event, azure, tmp_path):
    trial = Journal(tmp_path / "out", trial_name="trial-3", trial_parameters={"lr": 0.1})
    assert deliver_whole(trial, status=status) is None
    child = f"{JOB}_{trial.run.id}"
    assert azure.points(child) == trial.points()
    assert azure.points().total() == 0
    assert azure.runs[child]["parentRunId"] == JOB
    assert azure.runs[child]["name"].endswith("trial-3")
    assert azure.events == {child: ["Start", event]}
    trial.forget(cursor=0)
    assert trial.deliver() is None
    assert azure.points(child) == trial.points()


def test_branch_names_its_parent(azure, tmp_path):
    branch = Journal(tmp_path / "out", parent_id="ab" * 16, parent_step=7)
    assert deliver_whole(branch) is None
    tags = {"run_id": branch.run.id, "parent_run_id": "ab" * 16, "parent_step": "7"}
    assert azure.runs[JOB]["tags"] == {f"loopwright.{name}": text for name, text in tags.items()}


def test_where_it_went_is_said(azure, journal):
    assert deliver_whole(journal) is None
    shown = read_delivered(journal.directory, journal.run.id, "azure_ml").reference["shown_at"]
    assert f"/runs/{JOB}?wsid=/subscriptions/sub/resourcegroups/rg/workspaces/ws-" in shown


# Outside of a job


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"AZUREML_RUN_ID": ""}, "the program is in no Azure ML job (AZUREML_RUN_ID is not set)"),
        ({"AZUREML_SERVICE_ENDPOINT": ""}, "AZUREML_RUN_ID is set, but not AZUREML_SERVICE_ENDPOINT"),
        ({"AZUREML_ARM_PROJECT_NAME": "", "MLFLOW_TRACKING_URI": "sqlite:///m.db", "MLFLOW_RUN_ID": "1"},
         "AZUREML_RUN_ID is set, but not AZUREML_ARM_PROJECT_NAME"),
    ],
)  # fmt: skip
def test_outside_of_a_job_it_is_off_and_says_so(changes, reason, azure, monkeypatch):
    assert place(AzureMLCallback()).place == "delivery"
    for name, text in changes.items():
        monkeypatch.setenv(name, text)
    assert (place(AzureMLCallback()).place, place(AzureMLCallback()).reason) == ("off", reason)


def test_training_outside_of_a_job_is_none_the_worse_and_the_table_says_why(tmp_path, capsys):
    trainer = build(tmp_path / "out", report_to="azure_ml", disable_tqdm=False)
    trainer.train()
    trainer.reporting.close()
    assert trainer.state.global_step == 12
    assert "azure_ml" in (table := capsys.readouterr().err)
    assert "the program is in no Azure ML job" in table


def test_secrets_are_kept_nowhere(azure, journal):
    assert deliver_whole(journal) is None
    assert "AZUREML_RUN_TOKEN" not in recorded_variables(AzureMLCallback.variables)
    files = [file for file in journal.directory.parent.rglob("*") if file.is_file()]
    assert files
    assert not any(azure.token.encode() in file.read_bytes() for file in files)


def test_without_the_token_everything_waits_and_nobody_is_asked(azure, journal, monkeypatch):
    monkeypatch.delenv("AZUREML_RUN_TOKEN")
    journal.begin()
    journal.log(1, 5)
    assert "AZUREML_RUN_TOKEN is not set: a job's token is in its own environment alone" in journal.deliver()
    assert azure.requests == []
    monkeypatch.setenv("AZUREML_RUN_TOKEN", azure.token)
    for name in AzureMLCallback.variables:  # those of the beginning count
        monkeypatch.delenv(name, raising=False)
    journal.recorder.end_attempt(Status.COMPLETED)
    assert journal.deliver() is None
    assert azure.points() == journal.points()


# A service that is away


def test_dead_service_is_noticed_soon(journal, monkeypatch):
    azure = AzureML()
    azure.stop()
    for name, text in azure.environment().items():
        monkeypatch.setenv(name, text)
    journal.begin()
    journal.log(1, 5)
    began = time.monotonic()
    assert f"nothing answers at 127.0.0.1:{azure.port}" in journal.deliver()
    assert time.monotonic() - began < 10


def test_service_that_hangs_is_noticed_at_the_beginning_and_in_the_middle(azure, journal, monkeypatch):
    for name in ("_PROBE_SECONDS", "_ANSWER_SECONDS"):
        monkeypatch.setattr(azureml_session, name, 1)
    azure.gate.clear()
    journal.begin()
    journal.log(1, 5)
    began = time.monotonic()
    assert f"127.0.0.1:{azure.port} did not answer in time" in journal.deliver()
    azure.gate.set()
    worker = journal.confirm()
    azure.gate.clear()
    journal.log(6, 9)
    worker.finish()
    assert worker.join(60)
    assert f"127.0.0.1:{azure.port} did not answer in time" in worker.error
    assert time.monotonic() - began < 40
    azure.gate.set()
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()


def test_forbidden_is_said(azure, journal):
    azure.fault = 403
    journal.begin()
    journal.log(1, 5)
    assert "Forbidden" in journal.deliver()
    azure.fault = None
    journal.end()
    assert journal.deliver() is None
    assert azure.points() == journal.points()


# Trainings


def test_training_imports_no_sdk_and_the_job_holds_it_all(azure, tmp_path):
    program = """
import sys
from pathlib import Path
from tests.trackers.trainings import build
trainer = build(Path(sys.argv[1]), report_to="azure_ml", eval_strategy="epoch", tracker_close_timeout=60)
trainer.train()
trainer.reporting.close()
assert "azureml" not in sys.modules and "mlflow" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))}
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert azure.points() == Journal.points_in(tmp_path / "out")
    assert not any(azure.token.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_run_that_is_handed_over_is_used_and_left_open(azure, tmp_path, without_trackers):
    from azureml.core.run import Run

    tracker = AzureMLCallback(Run.get_context(allow_offline=False))
    patience = tracker.azureml_run._client.metrics._client.config.connection.timeout
    assert place(tracker).place == "training"
    trainer = build(tmp_path / "out", callbacks=[tracker])
    trainer.train()
    trainer.evaluate()
    trainer.reporting.close()
    assert same_weights(weights(trainer), without_trackers)
    assert azure.points() == Journal.points_in(tmp_path / "out")
    assert azure.events == {}
    assert tracker.azureml_run._client.metrics._client.config.connection.timeout == patience


class OwnRun:
    """What somebody hands over: the signature of the SDK's `Run.log`; some of the calls fail."""

    def __init__(self, *failing):
        self.failing = set(failing)
        self.calls = self.flushed = 0
        self.logged = []

    def log(self, name, value, description="", step=None):
        self.calls += 1
        if self.calls in self.failing:
            raise ConnectionError("away")
        self.logged.append((name, value, description, step))

    def flush(self, timeout_seconds=300):
        self.flushed = len(self.logged)


@pytest.mark.parametrize("failing", [(), (1, 3), (5, 6)])
def test_object_that_is_handed_over_gets_each_number_once_with_step_and_description(failing, tmp_path):
    run = OwnRun(*failing)
    trainer = build(tmp_path / "out", callbacks=[AzureMLCallback(run)], tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()
    wanted = [(name, step, value) for name, step, _, value in Journal.points_in(tmp_path / "out")]
    assert sorted((name, step, value) for name, value, _, step in run.logged) == sorted(wanted)
    assert all(name == description for name, _, description, _ in run.logged)
    assert run.flushed == len(run.logged)


def test_what_is_left_for_a_run_that_was_handed_over_goes_nowhere_else(azure, journal):
    journal.begin()
    journal.log(1, 5)
    journal.end()
    store = DeliveryStore(journal.directory)
    store.remember(journal.run.id, "azure_ml", {"was_given": True})
    store.close()
    worker = journal.start_worker()
    worker.finish()
    assert worker.join(60)
    assert "the run was handed over by the program" in worker.error
    assert azure.points().total() == 0


def test_sdks_stand_in_outside_of_a_job_prints(tmp_path, capsys):
    from azureml.core.run import Run

    run = Run.get_context()
    assert "step" not in inspect.signature(run.log).parameters
    trainer = build(tmp_path / "out", callbacks=[AzureMLCallback(run)])
    trainer.train()
    trainer.reporting.close()
    printed = capsys.readouterr().out
    assert printed.count("Attempted to log scalar metric train/loss:") == 12
    assert "flush" not in printed


def test_callback_that_overrides_lives_in_the_training_process(azure, tmp_path, without_trackers):
    seen = []

    class Mine(AzureMLCallback):
        def setup(self, args, state, model, **kwargs):
            super().setup(args, state, model, **kwargs)
            seen.append((type(model).__name__, self.azureml_run.id))

    trainer = build(tmp_path / "out", callbacks=[Mine()], tracker_open_timeout=60, tracker_call_timeout=30)
    trainer.train()
    trainer.reporting.close()
    assert seen == [("Network", JOB)]
    assert azure.points() == Journal.points_in(tmp_path / "out")
    assert same_weights(weights(trainer), without_trackers)


def test_copy_leaves_the_run_here():
    copied = pickle.loads(pickle.dumps(AzureMLCallback(OwnRun())))
    assert (copied.azureml_run, copied.given_object()) == (None, None)


# Through MLflow, where azureml-core is not installed


def test_without_azureml_core_the_run_is_reached_through_mlflow(workspace, hide, journal):
    hide("azureml.core")
    assert place(AzureMLCallback()).place == "delivery"
    journal.begin()
    journal.log(1, 5)
    journal.note(Kind.LOG, 5, {"eval_loss": math.nan})
    journal.end()
    assert journal.deliver() is None
    assert "azureml.core" not in sys.modules
    assert stored_points(workspace.client, workspace.job) == recorded_points(journal.directory)
    run = workspace.client.get_run(workspace.job)
    assert run.info.status == "RUNNING", "the job's run is Azure's to end"
    assert run.data.tags["loopwright.run_id"] == journal.run.id
    shown = read_delivered(journal.directory, journal.run.id, "azure_ml").reference["shown_at"]
    assert shown.endswith(f"(run {workspace.job}, through MLflow)")
    assert workspace.tokens == {f"Bearer {AzureML.token}"}
    journal.forget(cursor=0)
    assert journal.deliver() is None
    assert stored_points(workspace.client, workspace.job) == recorded_points(journal.directory)


def test_way_that_changes_sends_nothing_again(azure, workspace, hide, journal, monkeypatch):
    for name, text in azure.environment(workspace.job).items():
        monkeypatch.setenv(name, text)
    azure.add_run(workspace.job)
    assert deliver_whole(journal, status=Status.PREEMPTED) is None
    assert azure.points(workspace.job) == journal.points()
    hide("azureml.core")
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    assert journal.deliver() is None
    stored = stored_points(workspace.client, workspace.job)
    assert sorted({step for _, step, _, _ in stored}) == [6, 7, 8, 9]
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, Hide)])
    journal.begin(first_step=9)
    journal.log(10, 11)
    journal.end()
    assert journal.deliver() is None
    assert {place[1] for place in azure.points(workspace.job)} == {1, 2, 3, 4, 5, 10, 11}


@pytest.mark.parametrize("missing", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_EXPERIMENT_ID"])
def test_mlflow_without_the_jobs_credentials_waits_and_opens_no_browser(missing, workspace, hide, journal, monkeypatch):
    import webbrowser

    monkeypatch.setattr(webbrowser, "open", lambda *args: pytest.fail("nobody is to be asked"))
    hide("azureml.core")
    monkeypatch.delenv(missing)
    journal.begin()
    journal.log(1)
    assert "MLFLOW_TRACKING_TOKEN, or the experiment, is not set" in journal.deliver()
    assert workspace.tokens == set()


def test_where_mlflow_reports_to_the_same_run_it_alone_does(azure, monkeypatch):
    def kinds():
        return [type(one) for one in reporting_callbacks(["azure_ml", "mlflow"], [])]

    assert kinds() == [AzureMLCallback, MLflowCallback]
    monkeypatch.setenv("MLFLOW_RUN_ID", JOB)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "azureml://example.org/mlflow/v1.0/subscriptions")
    assert kinds() == [MLflowCallback]
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "true")
    assert kinds() == [AzureMLCallback, MLflowCallback]


@pytest.mark.parametrize(
    ("hidden", "is_usable"),
    [((), True), (("azureml.core",), True), (("azureml.mlflow",), True), (("azureml.core", "azureml.mlflow"), False),
     (("azureml",), False)],
)  # fmt: skip
def test_either_sdk_does(hidden, is_usable, hide):
    hide(*hidden)
    assert listed_trackers()["azure_ml"].is_usable is is_usable
    if is_usable:
        AzureMLCallback()
    else:
        with pytest.raises(MissingExtra, match=r'the package azureml.core: pip install "loopwright\[azure_ml\]"'):
            AzureMLCallback()
        AzureMLCallback(OwnRun())


def test_job_without_azureml_core_and_without_mlflow_says_what_is_needed(azure, hide):
    hide("azureml.core")
    assert AzureMLCallback().why_off() == (
        "azureml-core is not installed, and without it this needs azureml-mlflow, MLFLOW_TRACKING_URI=azureml://… and "
        "MLFLOW_RUN_ID"
    )


def test_module_inside_a_package_is_looked_for_without_importing_it():
    program = "import sys\nfrom loopwright._support.extras import is_installed\n"
    program += "print(is_installed('azureml.core'), is_installed('azureml.no'), is_installed('no.core'),"
    program += " 'azureml' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout.split() == ["True", "False", "False", "False"]
