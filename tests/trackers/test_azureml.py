"""Azure ML's run holds what the journal holds, each number once: after kills, refusals and outages."""

from __future__ import annotations

import math
import os

import pytest

from loopwright.records import Kind, Status
from loopwright.trackers.azureml import AzureMLCallback
from loopwright.trackers.placement import place
from tests.trackers.azureml_service import JOB, NAN, AzureML, Journal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    """In no job, and with a home of the test's own, where the SDK keeps addresses."""
    for name in [name for name in os.environ if name.startswith(("AZUREML_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in (*AzureMLCallback.variables, "AZUREML_RUN_TOKEN", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is taken away afterwards, whoever sets it
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def azure(monkeypatch):
    """The stand-in, and the job's variables."""
    running = AzureML()
    for name, text in running.environment().items():
        monkeypatch.setenv(name, text)
    yield running
    running.stop()


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo")


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
