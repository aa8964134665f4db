"""A checkpoint that somebody tampered with, or that a disk spoiled, is refused by name; nothing in it is executed."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import load
from torch import nn
from torch.utils.data import Dataset

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.checkpoint import find_damage, newest_whole
from loopwright.errors import CheckpointDamaged, CheckpointError
from loopwright.loop.resuming import choose_checkpoint

STATES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "data_state.pt", "update.pt")
READ = ("model.safetensors", *STATES, "trainer_state.json", "loopwright_state.json")
FILES = (*READ, "training_args.json", "manifest.json")
OLDER, NEWER = "checkpoint-2", "checkpoint-3"


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.mse_loss(self.layer(x).squeeze(-1), labels)}


class Points(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = torch.rand(2)
        return {"x": x, "labels": x.sum()}


class Signal(TrainerCallback):
    """Asks for the end in the middle of the update after `step`."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def build(directory: Path, *, signal_at: int | None = None) -> Trainer:
    torch.manual_seed(0)
    args = TrainingArguments(
        str(directory),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=3,
        max_steps=4,
        fp16=True,
        use_cpu=True,
        signal_action="return",
        save_strategy="steps",
        save_steps=2,
        report_to="none",
        disable_tqdm=True,
    )
    return Trainer(Network(), args, train_dataset=Points(), callbacks=[Signal(signal_at)])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was paused in the middle of step 4, with a checkpoint of step 2 besides."""
    directory = tmp_path_factory.mktemp("original")
    build(directory, signal_at=3).train()
    assert sorted(path.name for path in directory.glob("checkpoint-*")) == [OLDER, NEWER]
    assert {path.name for path in (directory / NEWER).iterdir()} == set(FILES)
    return directory


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / NEWER


def resume(checkpoint: Path) -> Trainer:
    trainer = build(checkpoint.parent)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return trainer


def refused(checkpoint: Path, *names: str) -> str:
    """Have a resume from `checkpoint` refused; return the message, which has `names` in it."""
    with pytest.raises(CheckpointError) as caught:
        resume(checkpoint)
    message = str(caught.value)
    assert all(name in message for name in names), message
    return message


def describe_anew(checkpoint: Path, *, forget: tuple[str, ...] = (), **more: dict[str, Any]) -> None:
    """Write a manifest that fits the files, as who tampers with them would."""
    body = json.loads((checkpoint / "manifest.json").read_text())
    del body["digest"]
    body["files"] = {
        path.name: {"size": path.stat().st_size, "digest": xxhash.xxh3_128(path.read_bytes()).hexdigest()}
        for path in checkpoint.iterdir()
        if path.name not in ("manifest.json", *forget) and path.is_file()
    }
    body["files"] |= more
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["digest"] = xxhash.xxh3_128(canonical.encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(body))


def make_foreign(checkpoint: Path) -> None:
    """Make it look as if transformers had written it."""
    for name in ("manifest.json", "loopwright_state.json", "training_args.json"):
        (checkpoint / name).unlink()


def test_a_checkpoint_described_anew_or_as_transformers_is_gone_on_from(run: Path, checkpoint: Path) -> None:
    describe_anew(checkpoint)
    assert find_damage(checkpoint) == []
    assert resume(checkpoint).state.global_step == 4
    make_foreign(checkpoint)
    (checkpoint / "data_state.pt").unlink()
    (checkpoint / "update.pt").unlink()
    assert resume(checkpoint).state.global_step == 4


# Pickles


class Hostile:
    """Makes a directory when it is unpickled by anything that executes what a pickle says."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def put_pickle(file: Path, value: Any) -> None:
    file.write_bytes(pickle.dumps(value))


def put_zip(file: Path, value: Any) -> None:
    torch.save(value, file)


def put_into_what_was_there(file: Path, value: Any) -> None:
    """Hide `value` in the real content, where there is one that torch can write."""
    if file.suffix in (".pt", ".pth") and file.exists():
        content = torch.load(file, weights_only=False)
    else:
        content = load(file.read_bytes()) if file.suffix == ".safetensors" else {}
    torch.save({**content, "more": [value]}, file)


PUT: list[Callable[[Path, Any], None]] = [put_pickle, put_zip, put_into_what_was_there]


@pytest.mark.parametrize("put", PUT)
def test_these_pickles_do_harm_where_they_are_executed(tmp_path: Path, put: Callable[[Path, Any], None]) -> None:
    file, mark = tmp_path / "file.bin", tmp_path / "mark"
    put(file, Hostile(mark))
    if put is put_pickle:
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert mark.is_dir()


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("name", READ)
def test_a_hostile_pickle_is_refused_by_name_though_the_manifest_fits(
    checkpoint: Path, name: str, put: Callable[[Path, Any], None]
) -> None:
    mark = checkpoint.parent / "mark"
    put(checkpoint / name, Hostile(mark))
    describe_anew(checkpoint)
    assert find_damage(checkpoint) == []
    refused(checkpoint, name)
    assert not mark.exists()


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("name", READ[:-1])
def test_a_hostile_pickle_in_a_checkpoint_of_transformers_is_refused_by_name(
    checkpoint: Path, name: str, put: Callable[[Path, Any], None]
) -> None:
    mark = checkpoint.parent / "mark"
    make_foreign(checkpoint)
    put(checkpoint / name, Hostile(mark))
    refused(checkpoint, name)
    assert not mark.exists()


@pytest.mark.parametrize("is_foreign", [False, True])
@pytest.mark.parametrize("put", PUT)
def test_hostile_weights_in_place_of_safetensors_are_refused_by_name(
    checkpoint: Path, put: Callable[[Path, Any], None], is_foreign: bool
) -> None:
    mark = checkpoint.parent / "mark"
    (checkpoint / "model.safetensors").unlink()
    put(checkpoint / "pytorch_model.bin", Hostile(mark))
    make_foreign(checkpoint) if is_foreign else describe_anew(checkpoint)
    refused(checkpoint, "pytorch_model.bin")
    assert not mark.exists()


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("name", ["training_args.json", "training_args.bin", "extra.pt", "rng_state_0.pth"])
def test_a_hostile_pickle_in_a_file_that_is_not_needed_is_not_executed(
    checkpoint: Path, name: str, put: Callable[[Path, Any], None]
) -> None:
    mark = checkpoint.parent / "mark"
    put(checkpoint / name, Hostile(mark))
    describe_anew(checkpoint)
    assert resume(checkpoint).state.global_step == 4
    assert not mark.exists()


# Well-formed files that hold something else

OTHER: list[Any] = [
    {},
    {"more": 1},
    dict.fromkeys(("state", "param_groups", "base_lrs", "scale", "cpu", "gradients", "generators", "began"), 3),
    {0: torch.zeros(3)},
    [1],
    None,
    torch.zeros(2),
]


@pytest.mark.parametrize("content", range(len(OTHER)))
@pytest.mark.parametrize("name", STATES)
def test_a_file_that_holds_something_else_is_refused_or_no_matter(checkpoint: Path, name: str, content: int) -> None:
    torch.save(OTHER[content], checkpoint / name)
    describe_anew(checkpoint)
    try:
        resume(checkpoint)
    except CheckpointError as error:
        assert name in str(error) or "random state" in str(error)  # noqa: PT017 -- some are harmless


# Random states are taken one by one: what is unknown or missing there is said in the log.
@pytest.mark.parametrize("name", [name for name in STATES if name != "rng_state.pth"])
def test_a_file_of_another_kind_is_refused_by_name(checkpoint: Path, name: str) -> None:
    other = "update.pt" if name == "optimizer.pt" else "optimizer.pt"
    shutil.copy2(checkpoint / other, checkpoint / name)
    describe_anew(checkpoint)
    refused(checkpoint, name)


@pytest.mark.parametrize("content", ["{}", "5", "null", '"text"', "[]", '{"loop": 3}', '{"loop": {"position": {}}}'])
@pytest.mark.parametrize("name", ["loopwright_state.json", "trainer_state.json"])
def test_other_json_is_refused_or_no_matter(checkpoint: Path, name: str, content: str) -> None:
    (checkpoint / name).write_text(content)
    describe_anew(checkpoint)
    try:
        resume(checkpoint)
    except CheckpointError as error:
        assert name in str(error)  # noqa: PT017 -- some are harmless


# Paths

OUTSIDE = [
    "/etc/hostname",
    "../outside",
    "sub/../../outside",
    "..\\outside",
    "C:\\outside",
    "C:outside",
    "c:/outside",
    "\\\\server\\share\\outside",
    "//server/share/outside",
    "\\outside",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_whose_paths_leave_the_checkpoint_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint.parent / "outside").write_text("secret")
    record = {"size": 6, "digest": xxhash.xxh3_128(b"secret").hexdigest()}
    describe_anew(checkpoint, **{name: record})
    assert find_damage(checkpoint) == [f"{name}: its path leaves the checkpoint"]
    refused(checkpoint, name)


@pytest.mark.parametrize("name", ["", ".", "sub", "sub/", "a\0b", "x" * 5000, "manifest.json/x", "sub/nothing"])
def test_a_manifest_with_paths_to_nothing_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / "sub").mkdir()
    describe_anew(checkpoint, **{name: {"size": 0, "digest": ""}})
    (damage,) = find_damage(checkpoint)
    assert damage.startswith(f"{name}: ")
    refused(checkpoint)


def with_index(checkpoint: Path, shard: Any, *, kind: str = "model.safetensors.index.json") -> None:
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "outside")
    index = {"metadata": {}, "weight_map": {"layer.weight": shard, "layer.bias": shard}}
    (checkpoint / kind).write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("is_foreign", [False, True])
@pytest.mark.parametrize("shard", [*OUTSIDE, "", ".", "a\0b", "sub/outside", 5, None, ["../outside"]])
def test_an_index_whose_paths_leave_the_checkpoint_is_refused(
    checkpoint: Path, shard: Any, is_foreign: bool, kind: str
) -> None:
    with_index(checkpoint, shard, kind=kind)
    make_foreign(checkpoint) if is_foreign else describe_anew(checkpoint)
    assert "outside" not in refused(checkpoint) or isinstance(shard, (str, list))


@pytest.mark.parametrize("content", [b"{}", b"[]", b"null", b'{"weight_map": 3}', b'{"weight_map": {}}', b"\x80\x04N."])
@pytest.mark.parametrize("is_foreign", [False, True])
def test_an_index_that_is_none_is_refused(checkpoint: Path, content: bytes, is_foreign: bool) -> None:
    with_index(checkpoint, "shard")
    (checkpoint / "model.safetensors.index.json").write_bytes(content)
    make_foreign(checkpoint) if is_foreign else describe_anew(checkpoint)
    refused(checkpoint)


def test_an_index_within_the_checkpoint_is_read(checkpoint: Path) -> None:
    with_index(checkpoint, "sub/outside.safetensors")
    (checkpoint / "sub").mkdir()
    (checkpoint.parent / "outside").rename(checkpoint / "sub" / "outside.safetensors")
    make_foreign(checkpoint)
    for name in ("data_state.pt", "update.pt"):
        (checkpoint / name).unlink()
    assert resume(checkpoint).state.global_step == 4


def test_a_link_in_the_middle_of_a_path_is_not_followed(checkpoint: Path) -> None:
    elsewhere = checkpoint.parent / "elsewhere"
    elsewhere.mkdir()
    with_index(checkpoint, "sub/shard.safetensors")
    (checkpoint.parent / "outside").rename(elsewhere / "shard.safetensors")
    (checkpoint / "sub").symlink_to(elsewhere)
    content = (elsewhere / "shard.safetensors").read_bytes()
    record = {"size": len(content), "digest": xxhash.xxh3_128(content).hexdigest()}
    describe_anew(checkpoint, **{"sub/shard.safetensors": record})
    assert find_damage(checkpoint) == ["sub/shard.safetensors: a symbolic link leads out of the checkpoint"]
    refused(checkpoint, "sub/shard.safetensors: a symbolic link leads out of the checkpoint")
    make_foreign(checkpoint)
    refused(checkpoint, "sub/shard.safetensors: a symbolic link leads out of the checkpoint")


# A loopwright_state.json says by being there that the checkpoint is ours.
@pytest.mark.parametrize(("name", "is_foreign"), [*((name, False) for name in READ), *((n, True) for n in READ[:-1])])
@pytest.mark.parametrize("leads_to", ["outside", "a directory", "itself", "a circle", "nothing"])
def test_links_out_to_directories_and_in_circles_are_refused_by_name(
    checkpoint: Path, name: str, leads_to: str, is_foreign: bool
) -> None:
    if is_foreign:
        make_foreign(checkpoint)
    file = checkpoint / name
    file.rename(checkpoint.parent / "outside")
    (checkpoint / "sub").mkdir()
    if leads_to == "a circle":
        (checkpoint / "other").symlink_to(name)
    targets = {"outside": "../outside", "a directory": "sub", "itself": name, "a circle": "other", "nothing": "gone"}
    file.symlink_to(targets[leads_to])
    refused(checkpoint, name)


@pytest.mark.parametrize("name", READ)
def test_a_link_within_the_checkpoint_is_followed(checkpoint: Path, name: str) -> None:
    (checkpoint / name).rename(checkpoint / "kept")
    (checkpoint / name).symlink_to("kept")
    describe_anew(checkpoint)
    assert find_damage(checkpoint) == []
    assert resume(checkpoint).state.global_step == 4


# Accidents


def cut(file: Path, other: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def cut_last_bytes(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def flip(file: Path, other: Path, share: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    file.write_bytes(content)


def remove(file: Path, other: Path) -> None:
    file.unlink()


def swap(file: Path, other: Path) -> None:
    """Take the file of the other checkpoint, or where that has none, of a third one."""
    if other.exists():
        shutil.copy2(other, file)
    else:
        torch.save({"gradients": {}, "num_items": None, "weights": [1.0], "done": 0, "loss": None}, file)


ACCIDENTS: dict[str, Callable[[Path, Path], None]] = {
    "emptied": lambda file, other: cut(file, other, 0),
    "cut to a third": lambda file, other: cut(file, other, 1 / 3),
    "cut to nine tenths": lambda file, other: cut(file, other, 0.9),
    "cut by two bytes": cut_last_bytes,
    "a bit at the beginning": lambda file, other: flip(file, other, 0),
    "a bit in the middle": lambda file, other: flip(file, other, 0.5),
    "a bit near the end": lambda file, other: flip(file, other, 0.99),
    "removed": remove,
    "swapped": swap,
}


@pytest.mark.parametrize(
    ("name", "accident"),
    [
        (name, accident)
        for name in FILES
        for accident in ACCIDENTS
        # The arguments of both are the same, and with another's manifest every file is wrong.
        if accident != "swapped" or name not in ("training_args.json", "manifest.json")
    ],
)
def test_the_older_checkpoint_is_taken_and_the_damage_said(
    run: Path, name: str, accident: str, caplog: pytest.LogCaptureFixture
) -> None:
    ACCIDENTS[accident](run / NEWER / name, run / OLDER / name)
    with caplog.at_level(logging.WARNING):
        assert choose_checkpoint(str(run), True) == run / OLDER
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"skipping the damaged checkpoint {run / NEWER}: ")
    assert f"{name}: " in line
    assert [damage.partition(":")[0] for damage in find_damage(run / NEWER)] == [name]
    assert newest_whole(run)[0] == run / OLDER
    with pytest.raises(CheckpointDamaged, match=name.replace(".", r"\.")):
        choose_checkpoint(str(run), str(run / NEWER))


def test_the_older_checkpoint_is_taken_where_the_newer_has_its_manifest(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy2(run / OLDER / "manifest.json", run / NEWER / "manifest.json")
    assert choose_checkpoint(str(run), True) == run / OLDER
    assert "update.pt: not in manifest.json" in caplog.text


@pytest.mark.parametrize("name", ["data_state.pt", "update.pt", "loopwright_state.json"])
@pytest.mark.parametrize("accident", ["a bit in the middle", "removed", "swapped"])
def test_a_run_goes_on_from_the_older_checkpoint_to_the_same_end(
    original: Path, run: Path, tmp_path: Path, name: str, accident: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = build(tmp_path / "whole")
    whole.train()
    ACCIDENTS[accident](run / NEWER / name, run / OLDER / name)
    trainer = build(run)
    trainer.train(resume_from_checkpoint=True)
    assert NEWER in caplog.text
    assert f"{name}: " in caplog.text
    assert trainer.state.global_step == 4
    for one, other in zip(trainer.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_where_no_checkpoint_is_whole_none_is_taken(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (OLDER, NEWER):
        flip(run / name / "optimizer.pt", run, 0.5)
    with pytest.raises(CheckpointError, match=r"holds no whole checkpoint \(2 damaged\)"):
        choose_checkpoint(str(run), True)
    assert choose_checkpoint(str(run), "auto") is None
    assert [name in caplog.text for name in (OLDER, NEWER)] == [True, True]


def test_folder_of_damaged_checkpoints_alone_is_refused_by_its_name(run: Path, tmp_path: Path) -> None:
    for name in (OLDER, NEWER):
        flip(run / name / "optimizer.pt", run, 0.5)
    with pytest.raises(CheckpointError, match=r"resume_from_checkpoint='.*': .* no whole checkpoint \(2 damaged\)"):
        choose_checkpoint(str(tmp_path / "elsewhere"), run)
