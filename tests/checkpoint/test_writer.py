from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loopwright.checkpoint import (
    Snapshot,
    find_damage,
    load_data_state,
    load_loopwright_state,
    load_model_weights,
    load_optimizer,
    load_randomness,
    load_scaler,
    load_scheduler,
    load_trainer_state,
    load_update,
    write_checkpoint,
)
from loopwright.checkpoint.plain_files import numpy_arrays_allowed
from loopwright.errors import CheckpointError
from loopwright.state import TrainerState


def same(left: Any, right: Any) -> bool:
    """Return whether two nests of tensors, arrays and values are equal, types included."""
    if isinstance(left, torch.Tensor | np.ndarray):
        return type(left) is type(right) and left.dtype == right.dtype and bool((left == right).all())
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def test_everything_written_is_read_back_exactly(tmp_path: Path, make_snapshot: Any) -> None:
    snapshot = make_snapshot(10)
    path = write_checkpoint(snapshot, tmp_path / "deep" / "run")
    assert path == tmp_path / "deep" / "run" / "checkpoint-10"
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "data_state.pt",
        "update.pt",
        "trainer_state.json",
        "loopwright_state.json",
        "training_args.json",
        "manifest.json",
    }
    assert find_damage(path) == []
    assert same(load_optimizer(path), snapshot.optimizer)
    assert same(load_scheduler(path), snapshot.scheduler)
    assert same(load_scaler(path), snapshot.scaler)
    assert same(load_randomness(path), snapshot.randomness)
    assert same(load_data_state(path), snapshot.extra["data_state.pt"])
    assert same(load_update(path), snapshot.extra["update.pt"])
    assert load_trainer_state(path) == snapshot.trainer_state
    assert load_loopwright_state(path) == snapshot.loopwright_state
    assert (path / "training_args.json").read_text() == snapshot.training_args_json
    model = nn.Linear(4, 3)
    load_model_weights(model, path)
    assert same(dict(model.state_dict()), dict(snapshot.model.state_dict()))
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint-10"]


def test_parts_that_are_none_have_no_file_and_load_as_none(tmp_path: Path, make_snapshot: Any) -> None:
    nothing = dict.fromkeys(["optimizer", "scheduler", "scaler", "randomness"])
    path = write_checkpoint(make_snapshot(3, **nothing, extra={}), tmp_path)
    assert find_damage(path) == []
    assert load_optimizer(path) is load_scheduler(path) is load_scaler(path) is load_randomness(path) is None
    assert load_data_state(path) is load_update(path) is None


def test_a_state_dict_in_place_of_the_model_is_written_the_same(tmp_path: Path, make_snapshot: Any) -> None:
    snapshot = make_snapshot(10)
    whole = write_checkpoint(snapshot, tmp_path / "model")
    given = write_checkpoint(make_snapshot(10, model=snapshot.model.state_dict()), tmp_path / "state")
    assert (whole / "model.safetensors").read_bytes() == (given / "model.safetensors").read_bytes()


def test_a_second_save_of_the_same_step_replaces_the_first(tmp_path: Path, make_snapshot: Any) -> None:
    write_checkpoint(make_snapshot(10), tmp_path)
    (tmp_path / "checkpoint-10" / "notes.txt").write_text("of the first")
    path = write_checkpoint(make_snapshot(10, loopwright_state={"run_id": "second"}), tmp_path)
    assert load_loopwright_state(path) == {"run_id": "second"}
    assert find_damage(path) == []
    assert not (path / "notes.txt").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-10"]


class _Interrupted(nn.Linear):
    """A model that fails when it is saved."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(4, 3)
        self.error = error

    def save_pretrained(self, directory: str) -> None:
        Path(directory, "half.bin").write_bytes(b"half")
        raise self.error


def test_a_failed_save_leaves_nothing_and_names_the_checkpoint(tmp_path: Path, make_snapshot: Any) -> None:
    older = write_checkpoint(make_snapshot(10), tmp_path)
    error = OSError(errno.ENOSPC, "No space left on device")
    for step in (10, 20):
        with pytest.raises(CheckpointError, match=rf"checkpoint-{step} could not be saved: .*No space left") as caught:
            write_checkpoint(make_snapshot(step, model=_Interrupted(error)), tmp_path)
        assert caught.value.__cause__ is error
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-10"]
    assert find_damage(older) == []


def test_ctrl_c_during_a_save_stays_ctrl_c_and_leaves_nothing(tmp_path: Path, make_snapshot: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(make_snapshot(20, model=_Interrupted(KeyboardInterrupt())), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_old_one_stands_when_the_new_one_cannot_take_its_name(
    tmp_path: Path, make_snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(make_snapshot(10), tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write_checkpoint(make_snapshot(10, run_id="second"), tmp_path)
    assert load_loopwright_state(tmp_path / "checkpoint-10")["run_id"] == "run-a"  # type: ignore[index]
    assert find_damage(tmp_path / "checkpoint-10") == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-10"]


class _Custom:
    """An object that only a pickle could build again."""


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("optimizer", {"state": {0: _Custom()}}, r"optimizer\.pt would hold .*_Custom"),
        ("scheduler", {"function": np.mean}, r"scheduler\.pt would hold numpy"),
        ("scheduler", {"array": np.ones(2)}, r"scheduler\.pt would hold .*numpy"),
        ("extra", {"data_state.pt": {"thing": _Custom()}}, r"data_state\.pt would hold .*_Custom"),
        ("extra", {"update.pt": [{"a": np.array([None])}]}, r"update\.pt would hold an array of object"),
        ("extra", {"update.pt": {"a": (np.array(["text"]),)}}, r"update\.pt would hold an array of <U4"),
        ("extra", {"model.safetensors": 1}, r"model\.safetensors is a file of the checkpoint already"),
        ("loopwright_state", {"thing": _Custom()}, "not JSON serializable"),
        ("trainer_state", TrainerState(log_history=[{"thing": _Custom()}]), "_Custom"),
    ],
)
def test_what_could_not_be_read_back_is_refused_when_written(
    tmp_path: Path, make_snapshot: Any, part: str, value: Any, named: str
) -> None:
    with pytest.raises(CheckpointError, match=named):
        write_checkpoint(make_snapshot(10, **{part: value}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_and_odd_dicts_become_plain_ones(tmp_path: Path, make_snapshot: Any) -> None:
    from collections import Counter, OrderedDict, defaultdict

    state = {
        "best": np.float64(0.1),
        np.int64(3): [np.float32(0.5), (np.bool_(True), None)],
        "by_name": defaultdict(list, a=[1]),
        "milestones": Counter([3, 3, 5]),
        "ordered": OrderedDict(b=1, a=2),
        "set": {1, 2},
        "dtype": torch.bfloat16,
    }
    path = write_checkpoint(make_snapshot(10, scheduler=state), tmp_path)
    loaded = load_scheduler(path)
    assert loaded == state
    assert loaded is not None
    kinds = [type(loaded[name]) for name in ("best", "by_name", "milestones", "ordered")]
    assert kinds == [float, dict, Counter, OrderedDict]


def test_the_manifest_lists_every_file_of_a_processing_class_too(tmp_path: Path, make_snapshot: Any) -> None:
    class Processor:
        def save_pretrained(self, directory: str) -> None:
            Path(directory, "vocabulary").mkdir()
            Path(directory, "vocabulary", "words.txt").write_text("a b")

    path = write_checkpoint(make_snapshot(10, processing_class=Processor()), tmp_path)
    assert "vocabulary/words.txt" in json.loads((path / "manifest.json").read_text())["files"]
    (path / "vocabulary" / "words.txt").write_text("a c")
    assert find_damage(path) == ["vocabulary/words.txt: its content has changed since it was written"]


_DISK_FULL = """
import resource, sys
from pathlib import Path
import torch
from loopwright._support import files
from loopwright.checkpoint import Snapshot, find_damage, write_checkpoint
from loopwright.errors import CheckpointError
from loopwright.state import TrainerState

output_dir = Path(sys.argv[1])

files._PIECE = 30_000  # so that the disk is at work while the file is written

def snapshot(step, model, optimizer, extra=None):
    return Snapshot(step=step, model=model, optimizer=optimizer, trainer_state=TrainerState(global_step=step),
                    loopwright_state={"run_id": "a"}, training_args_json="{}", extra=extra or {})

small, large = {"w": torch.zeros(10)}, {"w": torch.zeros(100_000)}
write_checkpoint(snapshot(1, small, small), output_dir)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for step, *parts in ((2, large, small), (3, small, large), (1, small, large), (5, small, small, {"update.pt": large})):
    try:
        write_checkpoint(snapshot(step, *parts), output_dir)
    except CheckpointError as error:
        assert f"checkpoint-{step} could not be saved" in str(error) and "File too large" in str(error), error
        assert error.__cause__ is not None
    else:
        raise AssertionError("the disk was not full")
    assert [path.name for path in output_dir.iterdir()] == ["checkpoint-1"], list(output_dir.iterdir())
    assert find_damage(output_dir / "checkpoint-1") == []
write_checkpoint(snapshot(4, small, small), output_dir)
"""


def test_a_full_disk_fails_the_save_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DISK_FULL, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-1", "checkpoint-4"]


def test_snapshots_name_their_parts() -> None:
    with pytest.raises(TypeError):
        Snapshot(1, {}, TrainerState(), {}, "{}")  # type: ignore[misc]


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c16"])
def test_arrays_of_numbers_of_every_width_survive_in_extra_files(
    tmp_path: Path, make_snapshot: Any, dtype: str
) -> None:
    state = {"x": np.arange(6).reshape(2, 3).astype(dtype), "nested": [(np.float64(0.5), np.ones(1, dtype))]}
    path = write_checkpoint(make_snapshot(10, extra={"data_state.pt": state}), tmp_path)
    found: Any = load_data_state(path)
    assert same(found["x"], state["x"])
    assert same(found["nested"], [(0.5, np.ones(1, dtype))])


def test_a_checkpoint_is_written_beside_a_thread_that_reads_arrays(tmp_path: Path, make_snapshot: Any) -> None:
    before = torch.serialization.get_safe_globals()
    with numpy_arrays_allowed(), ThreadPoolExecutor(1) as beside:
        during = torch.serialization.get_safe_globals()
        path = beside.submit(write_checkpoint, make_snapshot(10), tmp_path).result(timeout=60)
        assert set(torch.serialization.get_safe_globals()) == set(during)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert find_damage(path) == []


def test_no_thread_takes_the_permission_to_read_arrays_from_another(checkpoint: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with numpy_arrays_allowed():
            entered.set()
            leave.wait(60)

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(hold)
        assert entered.wait(60)
        reading = threads.submit(load_randomness, checkpoint)
        with pytest.raises(TimeoutError):
            reading.result(timeout=0.2)
        leave.set()
        holding.result(timeout=60)
        assert reading.result(timeout=60) is not None


def test_two_threads_that_write_into_one_directory_do_not_clear_each_other_away(
    tmp_path: Path, make_snapshot: Any
) -> None:
    with ThreadPoolExecutor(2) as threads:
        steps = [1, 2] * 10
        paths = list(threads.map(lambda step: write_checkpoint(make_snapshot(step), tmp_path), steps))
    assert sorted(tmp_path.iterdir()) == sorted(set(paths))
    assert all(find_damage(path) == [] for path in set(paths))
