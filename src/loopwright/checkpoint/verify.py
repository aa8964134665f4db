"""Tell whole checkpoints from damaged ones, and say which file is wrong and how.

A checkpoint of ours is whole when every file of its manifest is there with its size and digest, and no file that a
resume would read is there without. One of transformers has no manifest: it counts as whole, though unverified, when it
can be opened.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from loopwright._support.files import FileRecord, digest_file
from loopwright._support.log import Logger, get_logger
from loopwright.checkpoint.layout import (
    ADAPTER_NAMES,
    LOOPWRIGHT_STATE_NAME,
    MANIFEST_NAME,
    REQUIRED_NAMES,
    STATE_NAMES,
    TRAINING_ARGS_NAME,
    WEIGHTS_NAMES,
    list_checkpoints,
    why_unreadable,
)
from loopwright.checkpoint.manifest import Manifest, read_manifest
from loopwright.checkpoint.plain_files import first_line
from loopwright.checkpoint.reader import load_trainer_state
from loopwright.checkpoint.shards import MODEL_SHARDS_NAME, OPTIMIZER_SHARDS_NAME, shards_in
from loopwright.checkpoint.weights import weight_files
from loopwright.errors import CheckpointDamaged, CheckpointError, CheckpointNotFound

logger: Logger = get_logger(__name__)


def find_damage(directory: Path | str) -> list[str]:
    """Return what is wrong with the checkpoint, one line for each file that is; empty where it is whole.

    Reads every byte of it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return [f"{directory.name}: no such directory"]
    if not has_manifest(directory):
        return _damage_of_foreign(directory)
    try:
        manifest = read_manifest(directory)
    except CheckpointDamaged as error:
        return [f"{MANIFEST_NAME}: {error}"]
    return [*_damage_of_list(directory, manifest), *_damage_of_files(directory, manifest)]


def require_whole(directory: Path | str) -> None:
    """Return only if the checkpoint is whole, warning where it has no manifest to tell by.

    Raises:
        CheckpointNotFound: there is no such directory.
        CheckpointDamaged: it is not whole; the message names every file that is wrong.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointNotFound(f"no such checkpoint: {directory}")
    if damage := find_damage(directory):
        raise CheckpointDamaged(f"{directory} is damaged: {'; '.join(damage)}")
    _warn_if_unverified(directory)


def newest_whole(output_dir: Path | str) -> tuple[Path | None, list[tuple[Path, list[str]]]]:
    """Return the whole checkpoint with the highest step, and those above it that are damaged, each with its damage."""
    skipped: list[tuple[Path, list[str]]] = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        damage = find_damage(checkpoint)
        if not damage:
            _warn_if_unverified(checkpoint)
            return checkpoint, skipped
        skipped.append((checkpoint, damage))
    return None, skipped


def has_manifest(directory: Path) -> bool:
    """Return whether the checkpoint has a manifest, whole or not."""
    return os.path.lexists(directory / MANIFEST_NAME)


def _damage_of_list(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the manifest's list: files that must be on it and aren't."""
    for name in REQUIRED_NAMES:
        if name not in manifest.files:
            yield f"{name}: not in {MANIFEST_NAME}"
    has_shards = any(name.startswith(f"{MODEL_SHARDS_NAME}/") for name in manifest.files)
    if not has_shards and manifest.files.keys().isdisjoint((*WEIGHTS_NAMES, *ADAPTER_NAMES)):
        yield f"{WEIGHTS_NAMES[0]}: neither it nor any other file of weights is in {MANIFEST_NAME}"
    # Planted later, they would be read all the same. Files of other names may be added: callbacks do.
    planted = [*shards_in(directory, MODEL_SHARDS_NAME), *shards_in(directory, OPTIMIZER_SHARDS_NAME)]
    for name in (*WEIGHTS_NAMES, *ADAPTER_NAMES, *STATE_NAMES, TRAINING_ARGS_NAME, *planted):
        if name not in manifest.files and os.path.lexists(directory / name):
            yield f"{name}: not in {MANIFEST_NAME}"


def _damage_of_files(directory: Path, manifest: Manifest) -> Iterator[str]:
    for name, record in manifest.files.items():
        if reason := why_unreadable(directory, name) or _difference(directory / name, record, manifest.algorithm):
            yield f"{name}: {reason}"


def _difference(file: Path, record: FileRecord, algorithm: str) -> str | None:
    try:
        if (size := file.stat().st_size) != record.size:
            return f"has {size} bytes, was written with {record.size}"
        same = digest_file(file, algorithm) == record.digest
        return None if same else "its content has changed since it was written"
    except OSError as error:
        return f"can't be read: {error.strerror}"


def _damage_of_foreign(directory: Path) -> list[str]:
    """Return what is visibly wrong with a checkpoint that has no manifest, as transformers' have none."""
    if (directory / LOOPWRIGHT_STATE_NAME).exists():
        return [f"{MANIFEST_NAME}: missing"]
    damage: list[str] = []
    try:
        load_trainer_state(directory)
        names = weight_files(directory)
    except CheckpointError as error:
        return [str(error).removeprefix(f"{directory}{os.sep}")]
    for name in (*names, *(name for name in STATE_NAMES if os.path.lexists(directory / name))):
        if reason := why_unreadable(directory, name) or _why_not_opened(directory / name):
            damage.append(f"{name}: {reason}")
    return damage


def _why_not_opened(file: Path) -> str | None:
    """Return why the file can't be opened as what its name says; only its table of contents is read."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt"):
                return None
        with zipfile.ZipFile(file):  # what torch.save writes
            return None
    except Exception as error:  # SafetensorError, BadZipFile, OSError and what else a damaged file leads to
        return f"can't be opened: {first_line(error)}"


def _warn_if_unverified(directory: Path) -> None:
    if not has_manifest(directory):
        logger.warning(
            "%s has no %s (it is not Loopwright's): its files are taken as they are", directory, MANIFEST_NAME
        )
