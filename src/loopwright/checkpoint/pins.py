"""Pin checkpoints: one that holds a file named `pinned` is never deleted by rotation; imports no torch.

The file is empty and in no manifest, so that anybody may make or remove it, by hand too. It goes where the directory
goes when that is copied, moved or renamed.
"""

from __future__ import annotations

import os
from pathlib import Path

from loopwright._support.files import sync_directory
from loopwright.errors import CheckpointError, CheckpointNotFound

PIN_NAME = "pinned"


def is_pinned(checkpoint: Path | str) -> bool:
    """Return whether somebody pinned the checkpoint."""
    return os.path.lexists(Path(checkpoint) / PIN_NAME)


def pin(checkpoint: Path | str) -> None:
    """Keep rotation from ever deleting the checkpoint; it is pinned durably on return, if it wasn't before.

    Raises:
        CheckpointNotFound: there is no such directory.
        CheckpointError: the file could not be made.
    """
    checkpoint = _existing(checkpoint)
    try:
        (checkpoint / PIN_NAME).touch()
        sync_directory(checkpoint)
    except OSError as error:
        raise CheckpointError(f"{checkpoint} can't be pinned: {error.strerror}") from error


def unpin(checkpoint: Path | str) -> None:
    """Leave the checkpoint to rotation again; one that isn't pinned is left as it is.

    Raises:
        CheckpointNotFound: there is no such directory.
        CheckpointError: the file could not be removed.
    """
    checkpoint = _existing(checkpoint)
    try:
        (checkpoint / PIN_NAME).unlink(missing_ok=True)
        sync_directory(checkpoint)
    except OSError as error:
        raise CheckpointError(f"{checkpoint} can't be unpinned: {error.strerror}") from error


def _existing(checkpoint: Path | str) -> Path:
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        raise CheckpointNotFound(f"no such checkpoint: {checkpoint}")
    return checkpoint
