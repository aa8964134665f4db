"""The SQLite file that MLflow keeps runs in: whole or absent, with the real MLflow and really killed processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("mlflow")

from loopwright.errors import TrackerError
from loopwright.trackers import mlflow_database
from loopwright.trackers.mlflow_client import MLflowService

OPENS = """
import sys
from loopwright.trackers.mlflow_client import MLflowService
print(MLflowService(sys.argv[1]).experiment_id("digits"))
"""

DIES = """
import os, signal
from mlflow.store.db import utils
utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)  # the first tables are there by then
"""


def start(script, uri):
    command = [sys.executable, "-c", script, uri]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_while_it_was_made_it_can_be_made_again(tmp_path):
    file = tmp_path / "deep" / "mlflow.db"
    killed = start(DIES + OPENS, f"sqlite:///{file}")
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    assert not file.exists()
    assert MLflowService(f"sqlite:///{file}").experiment_id("digits") == "1"


def test_two_that_begin_at_once_use_one_file(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    both = [start(OPENS, uri) for _ in range(2)]
    ended = [one.communicate(timeout=240) for one in both]
    assert [(out.strip(), one.returncode) for one, (out, _) in zip(both, ended, strict=True)] == [("1", 0)] * 2, ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db"]


def test_file_that_is_there_is_left_as_it_is(tmp_path, monkeypatch):
    service = MLflowService(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run_id = service.client.create_run("0").info.run_id
    monkeypatch.setattr(mlflow_database, "_make", None)
    assert MLflowService(f"sqlite:///{tmp_path / 'mlflow.db'}").require_run(run_id).info.run_id == run_id


def test_faster_one_keeps_its_file(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_text("somebody else's")
    mlflow_database._make(file)
    assert file.read_text() == "somebody else's"
    assert list(tmp_path.iterdir()) == [file]


def test_filesystem_without_links_gets_it_from_mlflow(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mlflow_database.os, "link", refuse)
    assert MLflowService(f"sqlite:///{tmp_path / 'mlflow.db'}").experiment_id("digits") == "1"


def test_disk_that_is_full_is_one_clear_line(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def fail(_):
        raise OperationalError("CREATE TABLE metrics", {}, Exception("database or disk is full"))

    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", fail)
    with pytest.raises(TrackerError, match=r"mlflow\.db could not be made: database or disk is full$"):
        MLflowService(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []
