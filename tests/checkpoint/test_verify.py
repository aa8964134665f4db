from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from loopwright.checkpoint import find_damage, newest_whole, require_whole, write_checkpoint
from loopwright.errors import CheckpointDamaged, CheckpointNotFound

FILES = (
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
)

DIGESTS: dict[str, Callable[[bytes], Any]] = {"xxh128": xxhash.xxh3_128, "sha256": hashlib.sha256}


def flip(file: Path, position: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def rewrite_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as an attacker would: with a digest that fits."""
    body = json.loads((directory / "manifest.json").read_text())
    del body["digest"]
    change(body)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["digest"] = DIGESTS.get(body["algorithm"], hashlib.sha256)(canonical.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(body))


def test_the_list_of_files_here_is_that_of_a_checkpoint(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_named(checkpoint: Path, name: str) -> None:
    content = (checkpoint / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        (checkpoint / name).write_bytes(content[:length])
        # The manifest's last byte is the end of its last line: without it, every statement still stands.
        whole = name == "manifest.json" and length == len(content) - 1
        assert [damage.partition(":")[0] for damage in find_damage(checkpoint)] == ([] if whole else [name]), length
    (checkpoint / name).write_bytes(content + b"more")
    assert find_damage(checkpoint)[0].startswith(f"{name}: ")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_named(checkpoint: Path, name: str) -> None:
    size = (checkpoint / name).stat().st_size
    for position in {0, 1, size // 3, size // 2, size - 2, *range(5, size, max(size // 40, 1))}:
        bit = position % 8
        flip(checkpoint / name, position, bit)
        assert [damage.partition(":")[0] for damage in find_damage(checkpoint)] == [name], (position, bit)
        flip(checkpoint / name, position, bit)
    assert find_damage(checkpoint) == []


@pytest.mark.parametrize("name", FILES)
def test_a_removed_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    assert find_damage(checkpoint) == [f"{name}: missing"]


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_file_of_another_checkpoint_is_named(checkpoint: Path, make_snapshot: Any, name: str) -> None:
    other = write_checkpoint(make_snapshot(11), checkpoint.parent)
    shutil.copy2(other / name, checkpoint / name)
    assert [damage.partition(":")[0] for damage in find_damage(checkpoint)] == [name]


def test_another_checkpoints_manifest_fits_no_file(checkpoint: Path, make_snapshot: Any) -> None:
    other = write_checkpoint(make_snapshot(11), checkpoint.parent)
    shutil.copy2(other / "manifest.json", checkpoint / "manifest.json")
    assert {damage.partition(":")[0] for damage in find_damage(checkpoint)} == set(FILES) - {"manifest.json"}


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_checkpoint_is_named_and_not_followed(checkpoint: Path, name: str) -> None:
    outside = checkpoint.parent / "outside"
    (checkpoint / name).rename(outside)
    (checkpoint / name).symlink_to(outside)
    assert find_damage(checkpoint) == [f"{name}: a symbolic link leads out of the checkpoint"]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..\\outside", "sub/../../outside"])
def test_a_path_out_of_the_checkpoint_is_named_and_not_read(checkpoint: Path, name: str) -> None:
    (checkpoint.parent / "outside").write_text("secret")
    record = {"size": 6, "digest": xxhash.xxh3_128(b"secret").hexdigest()}
    rewrite_manifest(checkpoint, lambda body: body["files"].update({name: record}))
    assert find_damage(checkpoint) == [f"{name}: its path leaves the checkpoint"]


def test_a_directory_or_pipe_in_a_files_place_is_named(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer.pt").mkdir()
    (checkpoint / "scaler.pt").unlink()
    os.mkfifo(checkpoint / "scaler.pt")
    assert find_damage(checkpoint) == ["optimizer.pt: not a plain file", "scaler.pt: not a plain file"]


def test_a_manifest_that_leaves_out_what_a_resume_needs_is_refused(checkpoint: Path) -> None:
    def forget(body: dict[str, Any]) -> None:
        body["files"] = {"training_args.json": body["files"]["training_args.json"]}

    rewrite_manifest(checkpoint, forget)
    named = {damage.partition(":")[0] for damage in find_damage(checkpoint)}
    assert named == set(FILES) - {"manifest.json", "training_args.json"}


@pytest.mark.parametrize("name", ["data_state.pt", "update.pt"])
def test_a_planted_state_is_named(tmp_path: Path, make_snapshot: Any, name: str) -> None:
    checkpoint = write_checkpoint(make_snapshot(10, extra={}), tmp_path)
    (checkpoint / name).write_bytes(b"planted")
    assert find_damage(checkpoint) == [f"{name}: not in manifest.json"]


@pytest.fixture
def older(checkpoint: Path) -> Path:
    """Return a checkpoint as it was written before: with digests of SHA-256."""

    def digest_anew(body: dict[str, Any]) -> None:
        body["algorithm"] = "sha256"
        for name, record in body["files"].items():
            record["digest"] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()

    rewrite_manifest(checkpoint, digest_anew)
    return checkpoint


def test_a_manifest_of_sha256_still_tells_a_whole_checkpoint(older: Path) -> None:
    assert '"algorithm": "sha256"' in (older / "manifest.json").read_text()
    assert find_damage(older) == []
    require_whole(older)


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_of_sha256_still_tells_damage(older: Path, name: str) -> None:
    flip(older / name, (older / name).stat().st_size // 2)
    assert [damage.partition(":")[0] for damage in find_damage(older)] == [name]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json", "adapter_model.bin"])
def test_planted_weights_are_named_and_a_callbacks_file_is_not(checkpoint: Path, name: str) -> None:
    (checkpoint / "notes.txt").write_text("from a callback")
    assert find_damage(checkpoint) == []
    (checkpoint / name).write_bytes(b"planted")
    assert find_damage(checkpoint) == [f"{name}: not in manifest.json"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "format 2; this version of Loopwright reads 1"),
        ({"algorithm": "md5"}, "digests by 'md5'"),
        ({"files": []}, "not a manifest"),
        ({"files": {"a": {"size": "x", "digest": ""}}}, "not a manifest"),
        ({"written_at": None}, "not a manifest"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(checkpoint: Path, change: Any, complaint: str) -> None:
    rewrite_manifest(checkpoint, lambda body: body.update(change))
    (damage,) = find_damage(checkpoint)
    assert damage.startswith("manifest.json: ")
    assert complaint in damage


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"format": 1}', b"[" * 100_000, b"\xff\xfe\x00\xd8"])
def test_nothing_else_in_the_manifests_place_gets_through(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "manifest.json").write_bytes(content)
    (damage,) = find_damage(checkpoint)
    assert damage.startswith("manifest.json: ")


def test_several_damages_are_all_named(checkpoint: Path) -> None:
    (checkpoint / "scaler.pt").unlink()
    flip(checkpoint / "model.safetensors", -1)
    (checkpoint / "trainer_state.json").write_text("{}")
    damage = find_damage(checkpoint)
    assert len(damage) == 3
    with pytest.raises(CheckpointDamaged) as caught:
        require_whole(checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert all(line in str(caught.value) for line in damage)


def test_a_whole_checkpoint_passes_without_a_word(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    require_whole(checkpoint)
    require_whole(str(checkpoint))
    assert caplog.records == []


def test_a_copy_under_another_name_is_whole(checkpoint: Path) -> None:
    copied = Path(shutil.copytree(checkpoint, checkpoint.parent / "my best"))
    assert find_damage(copied) == []


def test_no_directory_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="nowhere"):
        require_whole(tmp_path / "nowhere")
    assert find_damage(tmp_path / "nowhere") == ["nowhere: no such directory"]
    assert newest_whole(tmp_path / "nowhere") == (None, [])


def test_newest_whole_skips_the_damaged_and_says_why(tmp_path: Path, make_snapshot: Any) -> None:
    paths = [write_checkpoint(make_snapshot(step), tmp_path) for step in (9, 10, 11, 100)]
    (tmp_path / ".checkpoint-200.host-1.tmp").mkdir()
    assert newest_whole(tmp_path) == (paths[3], [])
    flip(paths[3] / "optimizer.pt", 100)
    shutil.rmtree(paths[2])
    paths[2].mkdir()
    found, skipped = newest_whole(tmp_path)
    assert found == paths[1]
    assert [path for path, _ in skipped] == [paths[3], paths[2]]
    assert skipped[0][1] == ["optimizer.pt: its content has changed since it was written"]
    assert skipped[1][1][0].startswith("trainer_state.json: missing")
    for path in paths[:2]:
        (path / "model.safetensors").unlink()
    assert newest_whole(tmp_path)[0] is None


@pytest.fixture
def foreign(checkpoint: Path) -> Path:
    """Return a checkpoint as transformers writes it: without our files."""
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "loopwright_state.json").unlink()
    (checkpoint / "training_args.json").rename(checkpoint / "training_args.bin")
    return checkpoint


def test_a_checkpoint_without_manifest_passes_with_a_warning(foreign: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        require_whole(foreign)
    assert "has no manifest.json" in caplog.text
    caplog.clear()
    assert newest_whole(foreign.parent) == (foreign, [])
    assert "has no manifest.json" in caplog.text


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "data_state.pt", "update.pt", "trainer_state.json"]
)
def test_without_manifest_a_file_cut_short_is_still_named(foreign: Path, name: str) -> None:
    content = (foreign / name).read_bytes()
    for length in (0, len(content) // 2, len(content) - 3):
        (foreign / name).write_bytes(content[:length])
        assert [damage.partition(":")[0] for damage in find_damage(foreign)] == [name]


def test_without_manifest_weights_and_state_are_still_required(foreign: Path) -> None:
    (foreign / "model.safetensors").unlink()
    assert find_damage(foreign)[0].startswith("no weights in")
    (foreign / "trainer_state.json").unlink()
    assert find_damage(foreign)[0].startswith("trainer_state.json: missing")


def test_losing_the_manifest_alone_does_not_make_our_checkpoint_a_foreign_one(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(CheckpointDamaged, match=r"manifest\.json: missing"):
        require_whole(checkpoint)
