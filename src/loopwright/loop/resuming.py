"""Choose the checkpoint that a training goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.checkpoint.hidden import clear_leftovers
from loopwright.checkpoint.layout import ATTEMPT_NAME, MANIFEST_NAME, list_checkpoints
from loopwright.checkpoint.verify import newest_whole, require_whole
from loopwright.errors import ArgumentError, CheckpointNotFound

logger: Logger = get_logger(__name__)


def reject_resume_value(asked: Any) -> None:
    """Refuse what is neither a flag, "auto" nor a path.

    Raises:
        ArgumentError: naming the value and what is allowed.
    """
    if not (asked is None or isinstance(asked, bool | str | Path)):
        raise ArgumentError(f"resume_from_checkpoint={asked!r}: expected True, False, 'auto' or a path")


def choose_checkpoint(output_dir: str, asked: str | Path | bool | None) -> Path | None:
    """Return the checkpoint to go on from, None to start anew.

    Arguments:
        output_dir: Where to look.
        asked: True for the newest whole one, "auto" for the same or a new start where there is none, a path for that
            very one, or for the newest whole one in that folder, None or False for a new start. A folder in which a
            task's attempt before left its checkpoints is as "auto" is.

    Raises:
        CheckpointNotFound: True or another folder was given and no checkpoint is whole.
        CheckpointDamaged: the one at the given path isn't.
    """
    # First, because a replacement that was cut in half may hide the checkpoint to go on from.
    clear_leftovers(output_dir)
    if asked is None or asked is False:
        _mention_leftovers(output_dir)
        return None
    may_start_anew = asked == "auto"
    if asked is not True and asked != "auto":
        path = Path(asked)
        if not path.is_dir():
            raise CheckpointNotFound(f"resume_from_checkpoint={str(asked)!r}: there is no such directory")
        may_start_anew = (path / ATTEMPT_NAME).exists()
        if not may_start_anew and ((path / MANIFEST_NAME).exists() or not list_checkpoints(path)):
            require_whole(path)
            return path
        output_dir = str(path)
    found, damaged = newest_whole(output_dir)
    for path, reasons in damaged:
        logger.warning("skipping the damaged checkpoint %s: %s", path, "; ".join(reasons))
    if found is None and may_start_anew and asked != "auto":
        logger.warning("the attempt before left no whole checkpoint in %s: starting anew", output_dir)
    if found is None and not may_start_anew:
        raise CheckpointNotFound(
            f"resume_from_checkpoint={asked if asked is True else str(asked)!r}: {output_dir} holds no whole checkpoint"
            + (f" ({len(damaged)} damaged)" if damaged else "")
            + "; 'auto' starts anew where there is none in output_dir"
        )
    return found


def _mention_leftovers(output_dir: str) -> None:
    if found := list_checkpoints(output_dir):
        logger.warning(
            "%s holds %d checkpoint(s) of an earlier run, up to %s: starting anew beside them "
            "(resume_from_checkpoint=True goes on from the newest)",
            output_dir,
            len(found),
            found[-1].name,
        )
