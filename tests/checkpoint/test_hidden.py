from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loopwright.checkpoint import clear_leftovers, find_damage, list_checkpoints, write_checkpoint
from loopwright.checkpoint.hidden import hidden_sibling, scratch_directory


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(output_dir: Path, purpose: str, pid: int, *, host: str | None = None, name: str = "checkpoint-10") -> Path:
    """Make what a process `pid` would leave behind if killed."""
    own_host = hidden_sibling(output_dir / name, "tmp").name.split(".")[2].rpartition("-")[0]
    path = output_dir / f".{name}.{host or own_host}-{pid}.{purpose}"
    path.mkdir(parents=True)
    (path / "half.bin").write_bytes(b"half")
    return path


def test_leftovers_of_dead_processes_go_when_the_next_save_starts(
    tmp_path: Path, dead_pid: int, make_snapshot: Any
) -> None:
    for purpose in ("tmp", "gone"):
        leftover(tmp_path, purpose, dead_pid)
    write_checkpoint(make_snapshot(20), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-20"]


def test_what_is_not_ours_or_may_be_in_use_stays(tmp_path: Path, dead_pid: int) -> None:
    alive = leftover(tmp_path, "tmp", os.getppid())
    elsewhere = leftover(tmp_path, "tmp", dead_pid, host="another_machine")
    others = [tmp_path / ".checkpoint-10.tmp", tmp_path / ".checkpoint-10.host-x.tmp", tmp_path / ".git"]
    for path in others:
        path.mkdir()
    clear_leftovers(tmp_path)
    assert all(path.exists() for path in (alive, elsewhere, *others))
    long_ago = time.time() - 2 * 24 * 3600
    for path in (alive, elsewhere):
        os.utime(path, (long_ago, long_ago))
    clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_own_leftovers_of_an_earlier_life_go_but_not_a_save_under_way(tmp_path: Path) -> None:
    earlier = leftover(tmp_path, "tmp", os.getpid(), name="checkpoint-9")
    with scratch_directory(tmp_path / "checkpoint-10") as scratch:
        clear_leftovers(tmp_path)
        assert scratch.is_dir()
        assert not earlier.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_replacement_cut_in_half_is_undone(tmp_path: Path, dead_pid: int, checkpoint: Path) -> None:
    hidden = leftover(checkpoint.parent, "old", dead_pid)
    (hidden / "half.bin").unlink()
    for file in checkpoint.iterdir():
        file.rename(hidden / file.name)
    checkpoint.rmdir()
    leftover(checkpoint.parent, "tmp", dead_pid)
    assert list_checkpoints(checkpoint.parent) == []
    clear_leftovers(checkpoint.parent)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint-10"]
    assert find_damage(checkpoint) == []


def test_a_replaced_one_goes_when_its_successor_stands(dead_pid: int, checkpoint: Path) -> None:
    leftover(checkpoint.parent, "old", dead_pid)
    clear_leftovers(checkpoint.parent)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert find_damage(checkpoint) == []


def test_a_link_under_a_hidden_name_is_removed_and_not_followed(tmp_path: Path, dead_pid: int) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    run = tmp_path / "run"
    path = leftover(run, "tmp", dead_pid)
    (path / "half.bin").unlink()
    path.rmdir()
    path.symlink_to(target)
    clear_leftovers(run)
    assert list(run.iterdir()) == []
    assert target.is_dir()


def test_clearing_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    clear_leftovers(tmp_path / "nowhere")


def test_what_cannot_be_removed_is_said_and_stops_nothing(
    tmp_path: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make_snapshot: Any
) -> None:
    path = leftover(tmp_path, "tmp", dead_pid)

    def refuse(target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("loopwright.checkpoint.hidden.shutil.rmtree", refuse)
    with caplog.at_level(logging.WARNING):
        clear_leftovers(tmp_path)
        assert find_damage(write_checkpoint(make_snapshot(20), tmp_path)) == []
    assert path.exists()
    assert f"could not remove {path}" in caplog.text
