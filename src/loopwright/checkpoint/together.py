"""Write a checkpoint of which each process has a part: all write theirs, and the first gives it its name.

    first process     directory made ── its name ──▶ others
    all               own part written, synced
    first process     ◀── size and digest of each file, or what went wrong
                      everything else written ── manifest ── renamed
    all               ◀── whether it is there

So it is there with the parts of all, each on the disk, or not at all. May run in a thread beside the training, with a
group of the processes' own for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright._support.files import FileRecord
from loopwright.checkpoint.layout import checkpoint_dir
from loopwright.checkpoint.shards import MODEL_SHARDS_NAME, OPTIMIZER_SHARDS_NAME, split_optimizer, write_shard
from loopwright.checkpoint.snapshot import Snapshot
from loopwright.checkpoint.writer import write_checkpoint
from loopwright.errors import CheckpointError, describe

if TYPE_CHECKING:
    from loopwright.runtime.ranks import Ranks


def write_together(snapshot: Snapshot, output_dir: Path | str, ranks: Ranks) -> Path:
    """Write a sharded `snapshot` as `write_checkpoint` does; all processes have to call it, each with its own.

    Raises:
        CheckpointError: it could not be written, on all processes, naming the one that couldn't.
    """
    if not ranks.is_first:
        directory = ranks.share(None)
        if directory is not None:
            ranks.gather(_try_own(snapshot, Path(directory), ranks))
        if reason := ranks.share(None):
            raise CheckpointError(reason)
        return checkpoint_dir(output_dir, snapshot.step)
    lead = _Lead(snapshot, ranks)
    try:
        checkpoint = write_checkpoint(snapshot, output_dir, lead.have_written)
    except CheckpointError as error:
        lead.tell(str(error))
        raise
    lead.tell(None)
    return checkpoint


class _Lead:
    """The first process's side: sees to it that the others don't wait for what will not come."""

    def __init__(self, snapshot: Snapshot, ranks: Ranks) -> None:
        self.snapshot = snapshot
        self.ranks = ranks
        self._is_begun = False

    def have_written(self, directory: Path) -> dict[str, FileRecord]:
        self._is_begun = True
        self.ranks.share(str(directory))
        found: list[Any] = self.ranks.gather(_try_own(self.snapshot, directory, self.ranks)) or []
        if reasons := [reason for _, reason in found if reason is not None]:
            raise CheckpointError("; ".join(reasons))
        return {name: record for files, _ in found for name, record in files.items()}

    def tell(self, reason: str | None) -> None:
        if not self._is_begun:
            self.ranks.share(None)
        self.ranks.share(reason)


def _try_own(snapshot: Snapshot, directory: Path, ranks: Ranks) -> tuple[dict[str, FileRecord], str | None]:
    """Write this process's parts; return their files, and what went wrong, as the others have to hear of it."""
    try:
        return _write_own(snapshot, directory, ranks), None
    except Exception as error:  # a full disk, say
        return {}, f"rank {ranks.index}: {describe(error)}"


def _write_own(snapshot: Snapshot, directory: Path, ranks: Ranks) -> dict[str, FileRecord]:
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no {directory} here: where each process writes its shards they need one output_dir, on a disk "
            "that all machines share; fsdp_config={'state_dict_type': 'FULL_STATE_DICT'} has the first write all"
        )
    written = write_shard(snapshot.model_state or {}, directory, MODEL_SHARDS_NAME, ranks.index, ranks.size)
    _, parts = split_optimizer(snapshot.optimizer)
    if parts:
        written |= write_shard(parts, directory, OPTIMIZER_SHARDS_NAME, ranks.index, ranks.size)
    return written
