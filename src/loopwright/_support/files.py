"""Write files so that a reader finds the old content or the new, and a crash loses neither."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

DIGEST_ALGORITHM = "sha256"


def write_text_atomically(path: Path | str, text: str) -> None:
    """Replace the file at `path` with `text` (UTF-8), durably: written beside it, synced, renamed over it."""
    target = Path(path)
    descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it what an ordinary open() would have given.
        Path(beside).chmod(0o666 & ~_current_umask())
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def sync_file(path: Path | str) -> None:
    """Block until the file's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path | str) -> None:
    """Block until the directory's entries (creations, renames, removals) are on the disk; no-op where unsupported."""
    if os.name == "nt":  # Windows can't open a directory, and its renames are journalled
        return
    sync_file(path)


def digest_file(path: Path | str) -> str:
    """Return the hex digest of the file's bytes by `DIGEST_ALGORITHM`."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, DIGEST_ALGORITHM).hexdigest()


def _current_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
