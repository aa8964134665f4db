from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers.trainer_utils as peer

from loopwright.checkpoint import checkpoint_dir, get_last_checkpoint, list_checkpoints, step_of
from loopwright.checkpoint.layout import why_unreadable


def test_step_of_reads_only_names_of_checkpoints() -> None:
    assert step_of("out/checkpoint-12") == 12
    assert step_of(checkpoint_dir("out", 7)) == 7
    others = [
        "checkpoint-",
        "checkpoint-1a",
        "my-checkpoint-1",
        ".checkpoint-1.h-1.tmp",
        "checkpoint-1\n",
        "checkpoint--1",
    ]
    for other in others:
        assert step_of(other) is None, other


def test_checkpoints_are_listed_by_step_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-100", ".checkpoint-11.h-1.tmp", "runs", "checkpoint-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-200").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_last_checkpoint_is_the_one_transformers_finds(tmp_path: Path) -> None:
    assert get_last_checkpoint(str(tmp_path)) is peer.get_last_checkpoint(str(tmp_path)) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-10-old", "tmp-checkpoint-11"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").write_text("a file")
    found = get_last_checkpoint(str(tmp_path))
    assert found == peer.get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        get_last_checkpoint(tmp_path / "nowhere")


def test_layout_imports_no_torch() -> None:
    program = (
        "import sys; import loopwright.checkpoint.layout; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_exported_name_exists() -> None:
    import loopwright.checkpoint as room

    assert all(getattr(room, name) is not None for name in room.__all__)
    assert set(room._HOMES) == set(room.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        room.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/../../secret", "C:\\secret", "..\\secret", "\\\\host\\x"]
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "here" / "sub").mkdir(parents=True)
    assert why_unreadable(tmp_path / "here", name) == "its path leaves the checkpoint"


def test_only_plain_files_inside_are_readable(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (here / "sub" / "file").write_text("x")
    (here / "inner").symlink_to("sub/file")
    (here / "outer").symlink_to(tmp_path / "secret")
    (here / "circle").symlink_to("circle")
    (here / "hanging").symlink_to("nothing")
    (here / "up").symlink_to(tmp_path)
    os.mkfifo(here / "pipe")
    assert why_unreadable(here, "sub/file") is None
    assert why_unreadable(here, "inner") is None
    assert why_unreadable(here, "outer") == "a symbolic link leads out of the checkpoint"
    assert why_unreadable(here, "up/secret") == "a symbolic link leads out of the checkpoint"
    assert why_unreadable(here, "hanging") == "missing"
    assert why_unreadable(here, "sub/file/deeper") == "missing"
    assert why_unreadable(here, "sub") == why_unreadable(here, "pipe") == "not a plain file"
    for name in ("circle", "nul\0byte"):
        assert (why_unreadable(here, name) or "").startswith("can't be opened")
    # The checkpoint itself may be reached through a link.
    (tmp_path / "latest").symlink_to(here)
    assert why_unreadable(tmp_path / "latest", "sub/file") is None
