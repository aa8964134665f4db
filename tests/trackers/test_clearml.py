"""ClearML's offline folders hold what the journal holds, and can be imported; its server gets each point once."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys

import pytest

from loopwright.errors import ArgumentError
from loopwright.integrations import ClearMLCallback
from loopwright.records import Kind, Status
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.clearml import (
    events_in,
    folders_in,
    parameters_in,
    points_in,
    points_of_journal,
    task_in,
    zip_is_whole,
)
from tests.trackers.trainings import build, deliver_what_is_left


class Journal(ServiceJournal):
    """A journal of one run that reports to ClearML."""

    tracker_class = ClearMLCallback
    age_seconds = 100.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the sessions go, and no variable from elsewhere."""
    for name in [name for name in os.environ if name.startswith("CLEARML_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "no.conf"))
    return tmp_path / "cache"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo")


def only_folder(cache):
    (folder,) = folders_in(cache)
    return folder


# Points


def test_points_are_those_of_the_journal_with_their_times(journal, cache):
    journal.begin()
    journal.log(1, 300)
    journal.note(
        Kind.LOG, 300, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5, "dogs": 0.75}, "epoch": 3.0, "note": "half"}
    )
    journal.note(Kind.PREDICTION, 300, {"test_loss": 0.5})
    journal.note(Kind.LOG, 300, {"train_runtime": 3.5, "train_loss": 0.5, "epoch": 3.5})
    journal.end()
    assert journal.deliver() is None
    folder = only_folder(cache)
    assert points_in(folder) == points_of_journal(journal.directory)
    assert zip_is_whole(folder)
    found = {(event["metric"], event["variant"], event["iter"]): event["value"] for event in events_in(folder)}
    assert found["eval", "f1/cats", 300] == 0.5
    assert found["test", "loss", 300] == 0.5
    assert found["Summary", "epoch", -(2**31)] == 3.5
