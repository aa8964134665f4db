from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.checkpoint import (
    load_data_state,
    load_loopwright_state,
    load_model_weights,
    load_optimizer,
    load_randomness,
    load_scaler,
    load_scheduler,
    load_trainer_state,
    load_update,
)
from loopwright.errors import CheckpointDamaged, CheckpointError


def load_weights(directory: Path) -> None:
    load_model_weights(nn.Linear(4, 3), directory)


LOADERS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": load_weights,
    "optimizer.pt": load_optimizer,
    "scheduler.pt": load_scheduler,
    "scaler.pt": load_scaler,
    "rng_state.pth": load_randomness,
    "data_state.pt": load_data_state,
    "update.pt": load_update,
    "trainer_state.json": load_trainer_state,
    "loopwright_state.json": load_loopwright_state,
}


class Hostile:
    """Makes a directory when it is unpickled by anything that executes what a pickle says."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_the_hostile_pickle_works(tmp_path: Path) -> None:
    torch.save(Hostile(tmp_path / "mark"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("wrapped", ["torch", "torch legacy", "pickle", "inside a dict", "numpy"])
@pytest.mark.parametrize("name", [*LOADERS, "pytorch_model.bin"])
def test_no_loadable_file_is_ever_executed(checkpoint: Path, name: str, wrapped: str) -> None:
    mark = checkpoint.parent / "mark"
    hostile: Any = Hostile(mark)
    file = checkpoint / name
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    if wrapped == "inside a dict":
        hostile = {"state": {0: hostile}, "weight": torch.zeros(3, 4)}
    if wrapped == "numpy":  # the one kind of array that can carry anything
        import numpy as np

        hostile = np.array([hostile], dtype=object)
    if wrapped == "pickle":
        file.write_bytes(pickle.dumps(hostile))
    else:
        torch.save(hostile, file, _use_new_zipfile_serialization=wrapped != "torch legacy")
    with pytest.raises(CheckpointDamaged, match=name.replace(".", r"\.")) as caught:
        LOADERS.get(name, load_weights)(checkpoint)
    assert not mark.exists()
    assert caught.value.__cause__ is not None
    assert "weights_only" not in str(caught.value)


def test_the_environment_cannot_make_loading_unsafe(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = checkpoint.parent / "mark"
    torch.save(Hostile(mark), checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointDamaged):
        load_optimizer(checkpoint)
    assert not mark.exists()


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_named_whatever_the_damage(checkpoint: Path, name: str) -> None:
    content = (checkpoint / name).read_bytes()
    garbage = [content[:length] for length in (0, 1, 7, len(content) // 2, len(content) - 3)]
    garbage += [b"\0" * len(content), b"\xff" * 40, b"[1, 2]", b"null", b"\x80\x04N.", b"[" * 100_000]
    for damaged in garbage:
        (checkpoint / name).write_bytes(damaged)
        with pytest.raises(CheckpointDamaged, match=name.replace(".", r"\.")):
            LOADERS[name](checkpoint)


@pytest.mark.parametrize("name", LOADERS)
def test_a_link_out_of_the_checkpoint_is_not_followed(checkpoint: Path, name: str) -> None:
    (checkpoint / name).rename(checkpoint.parent / "outside")
    (checkpoint / name).symlink_to(checkpoint.parent / "outside")
    with pytest.raises(CheckpointDamaged, match="leads out of the checkpoint"):
        LOADERS[name](checkpoint)


def test_a_checkpoint_of_transformers_has_no_state_of_ours(checkpoint: Path) -> None:
    (checkpoint / "loopwright_state.json").unlink()
    assert load_loopwright_state(checkpoint) is None


def test_a_directory_without_trainer_state_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trainer_state\.json: missing"):
        load_trainer_state(tmp_path)


@pytest.mark.parametrize("state", [{"global_step": "12"}, {"log_history": 3}])
def test_a_trainer_state_of_wrong_types_is_refused(checkpoint: Path, state: Any) -> None:
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointDamaged, match="wrong type"):
        load_trainer_state(checkpoint)


def test_a_checkpoint_without_weights_says_what_was_looked_for(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights in .*model\.safetensors, .*pytorch_model\.bin"):
        load_weights(checkpoint)


def test_an_adapter_alone_is_refused_by_name(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="PEFT adapter"):
        load_weights(checkpoint)


def test_another_models_weights_are_refused_naming_the_difference(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weight has shape \(3, 4\), the model's \(3, 5\)"):
        load_model_weights(nn.Linear(5, 3), checkpoint)
    with pytest.raises(CheckpointError, match=r"this Sequential: missing 0\.bias, 0\.weight; unexpected bias, weight"):
        load_model_weights(nn.Sequential(nn.Linear(4, 3)), checkpoint)
    many = nn.Sequential(*(nn.Linear(1, 1) for _ in range(5)))
    with pytest.raises(CheckpointError, match=r"missing 0\.bias, 0\.weight, 1\.bias, 1\.weight, 2\.bias and 5 more"):
        load_model_weights(many, checkpoint)


def test_a_wrong_shape_leaves_the_model_as_it_was(checkpoint: Path) -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.zeros(2, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_model_weights(model, checkpoint, strict=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_not_strict_loads_what_fits_and_warns(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(4, 3)
    model.register_buffer("scale", torch.ones(1))
    source = nn.Linear(4, 3)
    load_model_weights(source, checkpoint)
    load_model_weights(model, checkpoint, strict=False)
    assert torch.equal(model.weight, source.weight)
    assert "missing scale" in caplog.text


def test_weights_take_the_models_own_precision(checkpoint: Path) -> None:
    model = nn.Linear(4, 3).to(torch.bfloat16)
    load_model_weights(model, checkpoint)
    source = nn.Linear(4, 3)
    load_model_weights(source, checkpoint)
    assert torch.equal(model.weight, source.weight.to(torch.bfloat16))
    assert model.weight.requires_grad
