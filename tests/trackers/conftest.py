"""What the tests of trackers share: a third party's tracker that is registered, its service, and small trainings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loopwright.trackers import registry

HERE = Path(__file__).parent


@pytest.fixture
def generic(monkeypatch: pytest.MonkeyPatch):
    """Register the generic tracker as an installed package would be; returns its module."""
    monkeypatch.syspath_prepend(HERE / "generic")
    registry.listed_trackers.cache_clear()
    import generic_tracker

    yield generic_tracker
    sys.modules.pop("generic_tracker", None)
    registry.listed_trackers.cache_clear()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Register the faulty trackers as an installed package would be; returns their module."""
    monkeypatch.syspath_prepend(HERE / "faulty")
    registry.listed_trackers.cache_clear()
    import faulty_trackers

    monkeypatch.setenv("FAULT_FILE", str(tmp_path / "fault"))
    monkeypatch.chdir(tmp_path)
    yield faulty_trackers
    registry.listed_trackers.cache_clear()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch):
    """A running service, which the generic tracker finds."""
    from tests.trackers.service import Service

    running = Service()
    monkeypatch.setenv("GENERIC_URL", running.url)
    yield running
    running.fault = None
    running.go_away()


@pytest.fixture(scope="module")
def without_trackers(tmp_path_factory: pytest.TempPathFactory):
    """The weights that a training without trackers ends with."""
    from tests.trackers.trainings import build, weights

    trainer = build(tmp_path_factory.mktemp("plain"))
    trainer.train()
    return weights(trainer)
