from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers.trainer_utils as peer

from loopwright.checkpoint import list_checkpoints, rotate, write_checkpoint

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, make_snapshot: Any) -> Save:
    def save(step: int, run_id: str = "run-a") -> Path:
        return write_checkpoint(make_snapshot(step, run_id=run_id), tmp_path)

    return save


def steps(output_dir: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in list_checkpoints(output_dir)]


def damage(checkpoint: Path) -> None:
    with (checkpoint / "optimizer.pt").open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("best", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("limit", [None, 0, 1, 2, 3, 4, 5])
def test_the_same_ones_stay_as_with_transformers(tmp_path: Path, limit: int | None, best: int | None) -> None:
    for library in ("ours", "theirs"):
        for step in (1, 2, 3, 4):
            directory = tmp_path / library / f"checkpoint-{step}"
            directory.mkdir(parents=True)
            (directory / "loopwright_state.json").write_text('{"run_id": "run-a"}')
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    def best_in(output_dir: Path) -> str | None:
        return str(output_dir / f"checkpoint-{best}") if best else None

    keep = {ours / "checkpoint-4"}  # as just written; these hold nothing that could be verified
    deleted = rotate(ours, limit=limit, run_id="run-a", best=best_in(ours), keep=keep)
    peer.rotate_checkpoints(str(theirs), save_total_limit=limit, best_model_checkpoint=best_in(theirs))
    assert steps(ours) == steps(theirs)
    assert {path.name for path in deleted} == {f"checkpoint-{step}" for step in (1, 2, 3, 4)} - {
        path.name for path in list_checkpoints(ours)
    }
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in list_checkpoints(ours))


def test_checkpoints_of_other_runs_are_neither_deleted_nor_counted(tmp_path: Path, save: Save) -> None:
    for step in (1, 2):
        save(step, "run-b")
    (tmp_path / "checkpoint-3").mkdir()  # transformers', or anybody's
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("{}")
    broken = save(4)
    (broken / "loopwright_state.json").write_text("{")
    for step in (5, 6, 7):
        save(step)
    assert rotate(tmp_path, limit=2, run_id="run-a", best=None) == [tmp_path / "checkpoint-5"]
    assert steps(tmp_path) == [1, 2, 3, 4, 6, 7]


def test_the_newest_whole_one_stays_however_old(tmp_path: Path, save: Save) -> None:
    for step in (1, 2, 3, 4):
        save(step)
    damage(tmp_path / "checkpoint-3")
    damage(tmp_path / "checkpoint-4")
    rotate(tmp_path, limit=1, run_id="run-a", best=None)
    assert steps(tmp_path) == [2, 4]


def test_those_in_use_stay_and_count(tmp_path: Path, save: Save) -> None:
    paths = [save(step) for step in (1, 2, 3, 4)]
    rotate(tmp_path, limit=2, run_id="run-a", best=None, keep=[paths[0]])
    assert steps(tmp_path) == [1, 4]
    rotate(tmp_path, limit=1, run_id="run-a", best=None)
    assert steps(tmp_path) == [4]


def test_a_run_taken_further_back_keeps_what_it_wrote_last(tmp_path: Path, save: Save) -> None:
    for step in (10, 20, 30, 15, 18):
        save(step)
    rotate(tmp_path, limit=2, run_id="run-a", best=None)
    assert steps(tmp_path) == [15, 18]


def test_copying_the_run_does_not_change_which_are_oldest(tmp_path: Path, save: Save) -> None:
    for step in (10, 20, 15):
        save(step)
    copied = Path(shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copied", copy_function=shutil.copy))
    rotate(copied, limit=2, run_id="run-a", best=None)
    assert steps(copied) == [15, 20]


def test_the_best_is_recognized_by_any_path_to_it(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save(step)
    monkeypatch.chdir(tmp_path)
    rotate(tmp_path, limit=2, run_id="run-a", best="./checkpoint-1")
    assert steps(tmp_path) == [1, 3]
    rotate(".", limit=1, run_id="run-a", best="/where/it/was/before/checkpoint-1")
    assert steps(tmp_path) == [1, 3]
    elsewhere = tmp_path / "elsewhere" / "checkpoint-1"
    elsewhere.mkdir(parents=True)
    rotate(tmp_path, limit=1, run_id="run-a", best=str(elsewhere))
    assert steps(tmp_path) == [3]


def test_a_link_is_no_checkpoint_to_delete(tmp_path: Path, save: Save) -> None:
    real = save(5)
    moved = real.rename(tmp_path / "kept for later")
    (tmp_path / "checkpoint-5").symlink_to(moved)
    for step in (6, 7):
        save(step)
    rotate(tmp_path, limit=1, run_id="run-a", best=None)
    assert steps(tmp_path) == [5, 7]
    assert (moved / "model.safetensors").exists()


def test_one_that_cannot_be_deleted_is_said_and_stops_nothing(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [save(step) for step in (1, 2, 3)]
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self == paths[0]:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert rotate(tmp_path, limit=1, run_id="run-a", best=None) == [paths[1]]
    assert f"could not delete {paths[0]}" in caplog.text


def test_the_run_id_decides_as_it_stands_in_the_file(tmp_path: Path, save: Save) -> None:
    paths = [save(step) for step in (1, 2)]
    for state in ({}, {"run_id": None}, [], {"run_id": ["run-a"]}):
        (paths[0] / "loopwright_state.json").write_text(json.dumps(state))
        assert rotate(tmp_path, limit=1, run_id="run-a", best=None) == []
