from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import xxhash
from torch import nn

from loopwright._support import files
from loopwright._support.files import FileRecord, create_file, digest_file, sync_and_digest
from loopwright.checkpoint import find_damage, write_checkpoint
from loopwright.checkpoint.manifest import write_manifest
from loopwright.errors import CheckpointError


class Processor:
    def save_pretrained(self, directory: str) -> None:
        Path(directory, "vocabulary").mkdir()
        Path(directory, "vocabulary", "words.txt").write_text("a b")
        Path(directory, "empty.txt").write_text("")


class OwnFormat(nn.Linear):
    def save_pretrained(self, directory: str) -> None:
        Path(directory, "own_format.bin").write_bytes(os.urandom(50_000))


class Remembering(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"seen": [1, 2]}


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return transformers.BertForMaskedLM(config)


@pytest.mark.parametrize("piece", [1000, 16 << 20])
@pytest.mark.parametrize(
    "make_model", [bert, lambda: nn.Linear(40, 30), lambda: OwnFormat(4, 3), lambda: Remembering(4, 3)]
)
def test_every_digest_is_that_of_the_file_on_the_disk(
    tmp_path: Path, make_snapshot: Any, monkeypatch: pytest.MonkeyPatch, make_model: Any, piece: int
) -> None:
    monkeypatch.setattr(files, "_PIECE", piece)
    model = make_model()
    parts = {"model": model, "optimizer": {"state": model.state_dict()}, "processing_class": Processor()}
    path = write_checkpoint(make_snapshot(10, **parts), tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["format"], manifest["algorithm"]) == (1, "xxh128")
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    del found["manifest.json"]
    assert manifest["files"] == {
        name: {"size": len(content), "digest": xxhash.xxh3_128(content).hexdigest()} for name, content in found.items()
    }
    assert {"optimizer.pt", "update.pt", "trainer_state.json", "vocabulary/words.txt", "empty.txt"} < found.keys()
    assert find_damage(path) == []


def test_only_files_that_others_wrote_are_read_again(
    tmp_path: Path, make_snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(path: Path) -> FileRecord:
        read.append(path.name)
        return sync_and_digest(path)

    monkeypatch.setattr("loopwright.checkpoint.manifest.sync_and_digest", reading)
    write_checkpoint(make_snapshot(10, model=OwnFormat(4, 3), processing_class=Processor()), tmp_path)
    assert sorted(read) == ["empty.txt", "own_format.bin", "words.txt"]


def test_a_file_that_is_not_as_long_as_was_written_fails_the_save(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").write_bytes(b"123")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt has 3 bytes on the disk, and 4 were written"):
        write_manifest(tmp_path, {"optimizer.pt": FileRecord(4, "")})
    with pytest.raises(CheckpointError, match=r"scaler\.pt is gone, and 4 were written"):
        write_manifest(tmp_path, {"scaler.pt": FileRecord(4, "")})
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("piece", [1000, 16 << 20])
def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(
    tmp_path: Path, make_snapshot: Any, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(files, "_PIECE", piece)
    synced: dict[int, int] = {}
    before_rename: dict[int, int] = {}
    fsync, rename = os.fsync, Path.rename

    def noting(descriptor: int) -> None:
        status = os.fstat(descriptor)
        fsync(descriptor)
        synced[status.st_ino] = status.st_size

    def renaming(self: Path, target: Path) -> Path:
        before_rename.update(synced)
        synced.clear()
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Path, "rename", renaming)
    path = write_checkpoint(make_snapshot(10, model=bert(), processing_class=Processor()), tmp_path / "run")
    for entry in [path, *path.rglob("*")]:
        status = entry.stat()
        assert status.st_ino in before_rename, entry
        if entry.is_file():
            assert before_rename[status.st_ino] == status.st_size, entry
    assert list(synced) == [path.parent.stat().st_ino]


def test_an_error_that_only_the_early_sync_saw_fails_the_save_and_leaves_nothing(
    tmp_path: Path, make_snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    failed = threading.Event()

    def failing_once(descriptor: int) -> None:
        if threading.current_thread().name == "loopwright-sync" and not failed.is_set():
            failed.set()
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing_once)
    monkeypatch.setattr(files, "_PIECE", 1000)
    write = files.NewFile.write

    def waiting(self: Any, data: Any) -> int:
        written = write(self, data)
        if written > 1000:
            failed.wait(60)
        return written

    monkeypatch.setattr(files.NewFile, "write", waiting)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write_checkpoint(make_snapshot(10, optimizer={"x": torch.zeros(10_000)}), tmp_path)
    assert failed.is_set()
    assert list(tmp_path.iterdir()) == []


def test_where_no_thread_can_be_started_the_file_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refused)
    monkeypatch.setattr(files, "_PIECE", 1000)
    with create_file(tmp_path / "file") as file:
        file.write(b"x" * 5000)
        file.write(memoryview(b"y" * 700))
    content = b"x" * 5000 + b"y" * 700
    assert (tmp_path / "file").read_bytes() == content
    assert file.record == FileRecord(5700, xxhash.xxh3_128(content).hexdigest())
    assert sync_and_digest(tmp_path / "file") == file.record
    assert digest_file(tmp_path / "file") == file.record.digest


def test_no_thread_is_left_when_a_file_is_closed_or_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIECE", 1000)
    with create_file(tmp_path / "file") as file:
        file.write(b"x" * 5000)
        assert "loopwright-sync" in {thread.name for thread in threading.enumerate()}
    with contextlib.suppress(KeyboardInterrupt), create_file(tmp_path / "file") as file:
        file.write(b"x" * 5000)
        raise KeyboardInterrupt
    assert "loopwright-sync" not in {thread.name for thread in threading.enumerate()}
