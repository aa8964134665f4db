"""What a killed session leaves running writes nothing more once the next has begun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.processes import children_of
from tests.trackers.wandb_journal import local_files, wait_for

pytest_plugins = ("tests.trackers.wandb_fixtures",)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process has open is known on Linux alone")


def follow(journal):
    """Return a delivery process, and the wandb-core that it has started, its file open."""
    process = journal.follow()
    wait_for(lambda: journal.reference.get("id") and local_files().files)
    (core,) = children_of(process.pid, "wandb-core")
    return process, core


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_core_that_outlives_a_killed_delivery_process_is_ended_before_the_next_looks_back(journal):
    journal.begin()
    journal.log(1, 20)
    process, core = follow(journal)
    os.kill(core, signal.SIGSTOP)  # as slow as it can be: what it has not written it would write whenever it goes on
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        assert is_running(core)
        journal.end()
        synced = journal.sync()
        assert synced.returncode == 0, synced.stdout + synced.stderr
        assert not is_running(core)
    finally:
        if is_running(core):
            os.kill(core, signal.SIGKILL)
    assert local_files().points == journal.points()


def test_core_whose_program_lives_is_left_alone(journal):
    from loopwright.trackers.wandb_leftovers import end_leftovers

    journal.begin()
    journal.log(1, 5)
    process, core = follow(journal)
    end_leftovers(local_files().files)
    assert is_running(core)
    journal.end()
    process.stdin.close()
    assert process.wait(60) == 0
    assert local_files().points == journal.points()
