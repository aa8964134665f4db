"""When a training has ended, a table says what was recorded where, for whoever watches its progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopwright.integrations import MLflowCallback, TensorBoardCallback
from tests.trackers.trainings import build


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Return a function that trains and returns the lines on standard error from the table on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def train(*callbacks, **arguments):
        patient = {"tracker_call_timeout": 60, "tracker_close_timeout": 60, "disable_tqdm": False}
        trainer = build(tmp_path / "out", callbacks=callbacks, **(patient | arguments))
        trainer.train()
        _, _, shown = capsys.readouterr().err.partition("Recorded")
        trainer.reporting.close()
        return [" ".join(line.split()) for line in shown.splitlines() if line.strip()]

    return train


def test_each_tracker_has_a_line_with_its_records_and_where_they_are(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "1")
    assert train(TensorBoardCallback, MLflowCallback) == [
        "tracker records where",
        f"tensorboard 17 {tmp_path / 'events'}",
        "mlflow off DISABLE_MLFLOW_INTEGRATION says so",
    ]


def test_what_waits_is_said_with_the_reason(train, tmp_path, monkeypatch):
    Path(tmp_path / "blocked").write_text("not a folder")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "blocked"))
    _, line = train(TensorBoardCallback)
    assert line.startswith("tensorboard 0 of 17 waits in the journal: ")
    assert "blocked" in line


@pytest.mark.parametrize("arguments", [{"disable_tqdm": True}, {"report_to": "none"}])
def test_nothing_is_shown_where_nobody_watches_or_nothing_reports(arguments, train):
    callbacks = () if "report_to" in arguments else (TensorBoardCallback,)
    assert train(*callbacks, **arguments) == []
