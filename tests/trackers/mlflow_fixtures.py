"""Fixtures for test files that name this module in `pytest_plugins`: MLflow's places, and a clean environment."""

from __future__ import annotations

import pytest

from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.mlflow_client import _WAITING
from tests.trackers.mlflow_service import Journal, Server, databases


@pytest.fixture(scope="session")
def starting_server(tmp_path_factory):
    """A server that takes its 13 to 40 s to start while other tests run."""
    server = Server(tmp_path_factory.mktemp("server"), databases())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(starting_server):
    starting_server.wait()
    return starting_server


@pytest.fixture
def own_environment(monkeypatch, tmp_path):
    """No variable from elsewhere; a database of the test's own, in a directory of its own."""
    for name in (*MLflowCallback.variables, *_WAITING, "DISABLE_MLFLOW_INTEGRATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", databases().copy(tmp_path / "mlflow.db"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(request, monkeypatch):
    """The database, or the server, by indirect parametrization."""
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server").url)


@pytest.fixture
def client(own_environment):
    """Return a function that makes a client of the present place."""
    from mlflow import MlflowClient

    return MlflowClient


@pytest.fixture
def journal(own_environment, tmp_path):
    return Journal(tmp_path / "out")
