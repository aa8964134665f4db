"""Write a checkpoint so that it exists whole or not at all, whenever the process is killed.

hidden directory ── every file, synced ── manifest, synced ── renamed to checkpoint-<step> ── parent synced

The digests of the manifest are taken of the bytes on their way into the files, and the disk is at work while they are
written. Only what others write (a model's own save_pretrained, a processing class) is read again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from loopwright._support.files import FileRecord, sync_directory, write_text
from loopwright.checkpoint.hidden import clear_leftovers, hide, remove_tree, scratch_directory
from loopwright.checkpoint.layout import (
    ADAPTER_NAMES,
    LOOPWRIGHT_STATE_NAME,
    OPTIMIZER_NAME,
    RANDOMNESS_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINING_ARGS_NAME,
    WEIGHTS_NAMES,
    checkpoint_dir,
)
from loopwright.checkpoint.manifest import write_manifest
from loopwright.checkpoint.pins import is_pinned, pin
from loopwright.checkpoint.plain_files import first_line, save_plain
from loopwright.checkpoint.shards import split_optimizer
from loopwright.checkpoint.snapshot import Snapshot
from loopwright.checkpoint.weights import write_description, write_model, write_state
from loopwright.errors import CheckpointError
from loopwright.state import TRAINER_STATE_NAME

_one_at_a_time = threading.Lock()


def write_checkpoint(
    snapshot: Snapshot, output_dir: Path | str, write_shards: Callable[[Path], dict[str, FileRecord]] | None = None
) -> Path:
    """Write `snapshot` to `<output_dir>/checkpoint-<step>` and return that path once it is durable.

    One of that name that is there already is replaced: until the rename it is the old one, whole, and then the new one.
    May run in a thread beside the training: nothing that belongs to the process is changed. Two in one process wait for
    each other.

    Arguments:
        snapshot: What to write.
        output_dir: Made where it doesn't exist.
        write_shards: Of a sharded one: called with the directory where the checkpoint is being written, has the tensors
            that are in parts written there, and returns size and digest of their files.

    Raises:
        CheckpointError: it could not be written; nothing is left of it, and all other checkpoints stand.
    """
    checkpoint = checkpoint_dir(output_dir, snapshot.step)
    # Each begins by clearing away what belongs to no living process: the other's directory, in its first instant or
    # its last, would look like that.
    with _one_at_a_time:
        try:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(checkpoint.parent)
            with scratch_directory(checkpoint) as scratch:
                written = {} if write_shards is None else write_shards(scratch)
                write_manifest(scratch, written | _write_files(snapshot, scratch))
                _sync_directories(scratch)
                _publish(scratch, checkpoint)
        except Exception as error:  # a model's own save_pretrained may raise anything
            raise CheckpointError(f"{checkpoint} could not be saved: {_reason(error)}") from error
    return checkpoint


def _write_files(snapshot: Snapshot, directory: Path) -> dict[str, FileRecord]:
    """Write all files but the manifest; return those known without reading them, which are on the disk already."""
    written = _write_model(snapshot, directory)
    states = {
        OPTIMIZER_NAME: split_optimizer(snapshot.optimizer)[0] if snapshot.is_sharded else snapshot.optimizer,
        SCHEDULER_NAME: snapshot.scheduler,
        SCALER_NAME: snapshot.scaler,
    }
    for name, state in states.items():
        if state is not None:
            written[name] = save_plain(state, directory / name)
    if snapshot.randomness is not None:
        written[RANDOMNESS_NAME] = save_plain(snapshot.randomness, directory / RANDOMNESS_NAME, arrays=True)
    texts = {
        TRAINER_STATE_NAME: snapshot.trainer_state.to_json(snapshot.history.text_of),
        LOOPWRIGHT_STATE_NAME: json.dumps(snapshot.loopwright_state, indent=2) + "\n",
        TRAINING_ARGS_NAME: snapshot.training_args_json,
    }
    for name, text in texts.items():
        written[name] = write_text(directory / name, text)
    for name, value in snapshot.extra.items():
        if (directory / name).exists():
            raise CheckpointError(f"{name} is a file of the checkpoint already, and can't be an extra one")
        written[name] = save_plain(value, directory / name, arrays=True)
    return written


def _write_model(snapshot: Snapshot, directory: Path) -> dict[str, FileRecord]:
    if snapshot.is_sharded:
        write_description(snapshot.model, directory, snapshot.processing_class)
        return {}
    written = write_model(snapshot.model, directory, snapshot.processing_class, snapshot.model_state)
    if any((directory / name).exists() for name in (*WEIGHTS_NAMES, *ADAPTER_NAMES)):
        return written
    # It has a save_pretrained that writes a format of its own: a resume couldn't read that.
    return written | write_state(snapshot.model if snapshot.model_state is None else snapshot.model_state, directory)


def _sync_directories(directory: Path) -> None:
    for path in _directories_in(directory):
        sync_directory(path)


def _directories_in(directory: Path) -> Iterator[Path]:
    yield from (path for path in directory.rglob("*") if path.is_dir())
    yield directory


def _publish(scratch: Path, checkpoint: Path) -> None:
    """Give the finished directory its name."""
    if is_pinned(checkpoint):  # what takes its place stays pinned
        pin(scratch)
    replaced = hide(checkpoint, "old") if os.path.lexists(checkpoint) else None
    try:
        scratch.rename(checkpoint)
    except OSError:
        if replaced is not None:
            replaced.rename(checkpoint)
        raise
    sync_directory(checkpoint.parent)
    if replaced is not None:
        remove_tree(replaced)


def _reason(error: BaseException) -> str:
    """Return what went wrong, in the system's words if it has any: torch reports a full disk as "unexpected pos"."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror} ({first_line(error)})" if cause is not error else str(error)
        cause = cause.__cause__ or cause.__context__
    return first_line(error) or type(error).__name__
