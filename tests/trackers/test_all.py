"""`report_to="all"`, every SDK installed, no network, no credentials, no variables: the demo trains as without any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from loopwright.trackers.registry import BUILT_IN, usable_trackers

ROOT = Path(__file__).parents[2]


def demo(directory: Path, report_to: str) -> str:
    """Run the demo as a new user would, and return what it showed."""
    (directory / "home").mkdir(parents=True)
    environment = {
        "HOME": str(directory / "home"),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COLUMNS": "160",
    }
    finished = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--epochs", "10", "--report-to", report_to],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def weights(directory: Path) -> dict[str, bytes]:
    found = (directory / "runs").rglob("checkpoint-*/model.safetensors")
    return {path.parent.name: path.read_bytes() for path in found}


@pytest.mark.timeout(600)
def test_demo_with_all_trackers_trains_as_without_any_and_says_what_is_where(tmp_path):
    assert [tracker.name for tracker in BUILT_IN if not tracker.is_usable] == []
    plain = tmp_path / "none"
    demo(plain, "none")
    everything = tmp_path / "all"
    shown = demo(everything, "all")
    # More of them where this was over before Comet, which stores checkpoints unless told not to, had taken them all:
    # rotation leaves those alone.
    assert weights(everything).items() >= weights(plain).items()
    assert weights(plain) != {}
    with JournalReader(everything / "runs" / "digits") as reader:
        assert {attempt.status for attempt in reader.attempts()} == {Status.COMPLETED}
    _, _, table = shown.partition("Recorded")
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert set(usable_trackers()) <= lines.keys()
    assert [line for line in lines.values() if "waits in the journal" in line] == []
    # What nobody asked for isn't there: no folder but the run's own and those that an SDK documents.
    documented = {"dvc.yaml", "dvclive", "home", "mlflow.db", "mlruns", "runs", "wandb"}
    assert {path.name for path in everything.iterdir()} <= documented
