"""Fixtures for test files that name this module in `pytest_plugins`: journals for W&B, and a clean environment."""

from __future__ import annotations

import pytest

from loopwright.trackers.wandb import WandbCallback
from tests.trackers.wandb_journal import Journal
from tests.trackers.wandb_service import WandbService

_VARIABLES = (*WandbCallback.variables, "WANDB_API_KEY", "WANDB_DISABLED", "WANDB_WATCH", "WANDB_SERVICE")


@pytest.fixture
def own_environment(tmp_path, monkeypatch):
    """Offline, with every directory of W&B's in the test's; wandb-core is ended, and forgets its settings."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    yield
    import wandb

    wandb.teardown()


@pytest.fixture
def wandb_service(own_environment, monkeypatch):
    """A running service that the SDK reports to."""
    with WandbService() as running:
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", running.api_key)
        yield running
        import wandb

        running.come_back()
        wandb.teardown()


@pytest.fixture
def journal(own_environment, tmp_path):
    return Journal(tmp_path / "out")
