from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers.trainer_utils as peer

from loopwright.checkpoint import find_damage, list_checkpoints, rotate, rotation, write_checkpoint
from loopwright.checkpoint.pins import is_pinned, pin, unpin
from loopwright.errors import CheckpointError, CheckpointNotFound

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, make_snapshot: Any) -> Save:
    def save(step: int, run_id: str = "run-a", **own_state: Any) -> Path:
        return write_checkpoint(make_snapshot(step, loopwright_state={"run_id": run_id, **own_state}), tmp_path)

    return save


def loss(value: float, name: str = "eval_loss") -> dict[str, Any]:
    return {"name": name, "value": value}


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


@pytest.mark.parametrize(
    ("top_k", "greater_is_better", "left"),
    [
        (1, False, [3, 6]),
        (2, False, [1, 3, 6]),
        (3, False, [1, 3, 4, 6]),
        (9, False, [1, 2, 3, 4, 5, 6]),
        (1, None, [3, 6]),
        (1, True, [5, 6]),
        (2, True, [2, 5, 6]),
    ],
)
def test_the_best_by_metric_stay_beside_the_newest(
    tmp_path: Path, save: Save, top_k: int, greater_is_better: bool | None, left: list[int]
) -> None:
    for step, value in enumerate((0.2, 0.8, 0.1, 0.4, 0.9, 0.5), start=1):
        save(step, metric=loss(value))
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=top_k, greater_is_better=greater_is_better)
    assert steps(tmp_path) == left


def test_more_is_better_unless_the_name_ends_in_loss(tmp_path: Path, save: Save) -> None:
    for step, value in enumerate((0.2, 0.8, 0.1, 0.4), start=1):
        save(step, metric=loss(value, "eval_loss_free_f1"))
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=1)
    assert steps(tmp_path) == [2, 4]


def test_of_two_equal_ones_the_newer_stays(tmp_path: Path, save: Save) -> None:
    for step in (7, 5, 6, 8):
        save(step, metric=loss(0.5 if step < 8 else 0.9))
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=1)
    assert steps(tmp_path) == [6, 8]


@pytest.mark.parametrize(
    "metric", [None, 0.1, loss(float("nan")), {"name": "eval_loss"}, {"value": 0.1}, loss("0.1"), [], loss(None)]
)  # type: ignore[arg-type]
def test_what_is_no_number_counts_as_unmeasured(tmp_path: Path, save: Save, metric: Any) -> None:
    save(1, metric=loss(10**400))
    for step in (2, 3, 4):
        save(step, metric=metric)
    save(5)
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=2)
    assert steps(tmp_path) == [1, 5]


def test_only_the_metric_measured_last_counts(tmp_path: Path, save: Save) -> None:
    for step, metric in enumerate(
        (loss(0.1, "eval_ppl_loss"), loss(0.8), loss(0.1, "eval_ppl_loss"), loss(0.5), loss(float("nan"), "eval_f1")),
        start=1,
    ):
        save(step, metric=metric)
    save(6)
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=2)
    assert steps(tmp_path) == [2, 4, 6]


@pytest.mark.parametrize(
    ("limit", "left"), [(1, [1, 3, 6]), (3, [1, 3, 6]), (4, [1, 3, 5, 6]), (6, [1, 2, 3, 4, 5, 6])]
)
def test_a_limit_leaves_more_than_the_best_newest_first(
    tmp_path: Path, save: Save, limit: int, left: list[int]
) -> None:
    for step, value in enumerate((0.2, 0.8, 0.1, 0.4, 0.9, 0.5), start=1):
        save(step, metric=loss(value))
    rotate(tmp_path, limit=limit, run_id="run-a", best=None, top_k=2)
    assert steps(tmp_path) == left


def test_the_best_by_metric_are_not_all_that_stays(tmp_path: Path, save: Save) -> None:
    for step, value in enumerate((0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.4), start=1):
        save(step, metric=loss(value))
    damage(tmp_path / "checkpoint-7")
    damage(tmp_path / "checkpoint-6")
    damage(tmp_path / "checkpoint-5")
    best, in_use = tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"
    rotate(tmp_path, limit=None, run_id="run-a", best=str(best), top_k=1, keep=[in_use])
    assert steps(tmp_path) == [1, 2, 4, 5, 7]


def test_other_runs_have_no_place_among_the_best(tmp_path: Path, save: Save) -> None:
    for step in (1, 2):
        save(step, "run-b", metric=loss(0.1))
    for step, value in ((3, 0.5), (4, 0.6), (5, 0.7)):
        save(step, metric=loss(value))
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=1)
    assert steps(tmp_path) == [1, 2, 3, 5]


@pytest.mark.parametrize("nothing", [None, 0])
def test_without_limit_and_top_k_nothing_is_deleted_nor_read(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch, nothing: int | None
) -> None:
    for step in (1, 2, 3):
        save(step, metric=loss(0.5))
    monkeypatch.setattr(rotation, "list_checkpoints", None)
    assert rotate(tmp_path, limit=nothing, run_id="run-a", best=None, top_k=nothing) == []


def test_no_more_is_read_than_decides(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(step, metric=loss(step)) for step in (1, 2, 3)]
    with monkeypatch.context() as patched:
        patched.setattr(rotation, "load_loopwright_state", None)  # so few are there that all stay
        assert rotate(tmp_path, limit=3, run_id="run-a", best=None, top_k=1) == []
    read: list[Path] = []
    monkeypatch.setattr(rotation, "find_damage", lambda path: read.append(path) or [])
    assert rotate(tmp_path, limit=1, run_id="run-a", best=str(paths[0]), top_k=2) == []
    assert read == []  # each stays for a reason of its own
    assert rotate(tmp_path, limit=1, run_id="run-a", best=None, keep=[paths[2]]) == paths[:2]
    assert read == []  # the newest is vouched for


@pytest.mark.parametrize("run_id", ["run-a", "run-b"])
def test_pinned_ones_are_neither_deleted_nor_counted(tmp_path: Path, save: Save, run_id: str) -> None:
    pin(save(1, run_id, metric=loss(0.1)))
    for step in (2, 3, 4):
        save(step, metric=loss(0.5 + step))
    pin(save(5, run_id, metric=loss(0.9)))
    rotate(tmp_path, limit=2, run_id="run-a", best=None)
    assert steps(tmp_path) == [1, 3, 4, 5]
    rotate(tmp_path, limit=None, run_id="run-a", best=None, top_k=1)
    assert steps(tmp_path) == [1, 3, 4, 5]
    unpin(tmp_path / "checkpoint-5")
    unpin(tmp_path / "checkpoint-1")
    rotate(tmp_path, limit=1, run_id="run-a", best=None)
    assert steps(tmp_path) == ([5] if run_id == "run-a" else [1, 4, 5])


def test_one_that_is_pinned_while_others_are_looked_at_stays(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(step) for step in (1, 2, 3)]
    monkeypatch.setattr(rotation, "find_damage", lambda _: pin(paths[0]) or [])
    assert rotate(tmp_path, limit=1, run_id="run-a", best=None) == [paths[1]]
    assert steps(tmp_path) == [1, 3]


def test_pinning_changes_nothing_else(tmp_path: Path, save: Save) -> None:
    checkpoint = save(1)
    assert not is_pinned(checkpoint)
    for _ in range(2):
        pin(checkpoint)
        assert is_pinned(checkpoint)
        assert find_damage(checkpoint) == []
    for _ in range(2):
        unpin(str(checkpoint))
        assert not is_pinned(checkpoint)
    assert not (checkpoint / "pinned").exists()


def test_what_cannot_be_pinned_is_said(tmp_path: Path, save: Save) -> None:
    for change in (pin, unpin):
        with pytest.raises(CheckpointNotFound, match=f"no such checkpoint: {tmp_path}/checkpoint-9"):
            change(tmp_path / "checkpoint-9")
    in_the_way = save(1) / "pinned"
    in_the_way.mkdir()
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/checkpoint-1 can't be unpinned: \w+"):
        unpin(in_the_way.parent)
    in_the_way.rmdir()
    in_the_way.symlink_to(tmp_path / "absent" / "file")
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/checkpoint-1 can't be pinned: \w+"):
        pin(in_the_way.parent)
