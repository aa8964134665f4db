"""Name the hidden directories through which checkpoints come and go, and clear those that dead processes left.

    .checkpoint-<step>.<host>-<pid>.tmp     being written, not yet a checkpoint
    .checkpoint-<step>.<host>-<pid>.old     replaced by a newer one of its name, about to be removed
    .checkpoint-<step>.<host>-<pid>.gone    rotated out, about to be removed

A directory is named `checkpoint-<step>` only while it is whole: a rename, which no kill halves, begins and ends that.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from loopwright._support.files import sync_directory
from loopwright._support.log import Logger, get_logger
from loopwright.checkpoint.layout import PREFIX_CHECKPOINT_DIR

logger: Logger = get_logger(__name__)

Purpose = Literal["tmp", "old", "gone"]

_HIDDEN = re.compile(
    rf"\.(?P<name>{PREFIX_CHECKPOINT_DIR}-[0-9]+)\.(?P<host>.+)-(?P<pid>[0-9]+)\.(?P<purpose>tmp|old|gone)"
)
_ABANDONED_SECONDS = 24 * 3600.0

_in_use: set[Path] = set()  # this process's own; another of its name and pid is from a container's earlier life


@contextmanager
def scratch_directory(checkpoint: Path) -> Iterator[Path]:
    """Make an empty hidden directory beside `checkpoint`; remove what is left of it in the end, whatever happened."""
    scratch = hidden_sibling(checkpoint, "tmp")
    remove_tree(scratch)
    scratch.mkdir()
    _in_use.add(scratch)
    try:
        yield scratch
    finally:
        _in_use.discard(scratch)
        remove_tree(scratch)


def hide(checkpoint: Path, purpose: Purpose) -> Path:
    """Take `checkpoint` out of sight in one rename, durably, and return where it is now."""
    hidden = hidden_sibling(checkpoint, purpose)
    remove_tree(hidden)
    checkpoint.rename(hidden)
    sync_directory(checkpoint.parent)
    return hidden


def hidden_sibling(checkpoint: Path, purpose: Purpose) -> Path:
    """Return this process's hidden name for `checkpoint`."""
    return checkpoint.parent / f".{checkpoint.name}.{_host()}-{os.getpid()}.{purpose}"


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, or a link or file; a failure is logged, for nothing depends on it."""
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        logger.warning("could not remove %s: %s", path, error)


def clear_leftovers(output_dir: Path | str) -> None:
    """Remove what killed processes left in `output_dir`.

    A checkpoint that was being replaced, and has no successor yet, gets its name back.
    Call it before looking for a checkpoint to resume from; every save begins with it.
    """
    for path in sorted(Path(output_dir).glob(f".{PREFIX_CHECKPOINT_DIR}-*")):
        match = _HIDDEN.fullmatch(path.name)
        if match is None or path in _in_use or not _is_abandoned(path, match["host"], int(match["pid"])):
            continue
        checkpoint = path.with_name(match["name"])
        if match["purpose"] == "old" and not checkpoint.exists():
            _reinstate(path, checkpoint)
        else:
            remove_tree(path)


def _reinstate(hidden: Path, checkpoint: Path) -> None:
    """Undo the first of a replacement's two renames, after a kill came before the second."""
    try:
        hidden.rename(checkpoint)
        sync_directory(checkpoint.parent)
    except OSError as error:
        logger.warning("could not rename %s to %s: %s", hidden, checkpoint, error)


def _is_abandoned(path: Path, host: str, pid: int) -> bool:
    if host == _host() and (pid == os.getpid() or not _is_alive(pid)):
        return True
    # Whether a process of another machine lives can't be seen from here, and a pid may have a new owner.
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", platform.node())[:64] or "host"
