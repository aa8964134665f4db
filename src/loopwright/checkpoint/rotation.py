"""Delete the oldest checkpoints of a run beyond `save_total_limit`, and no other."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from loopwright._support.log import get_logger
from loopwright.checkpoint.hidden import hide, remove_tree
from loopwright.checkpoint.layout import list_checkpoints, step_of
from loopwright.checkpoint.manifest import read_manifest
from loopwright.checkpoint.reader import load_loopwright_state
from loopwright.checkpoint.verify import find_damage
from loopwright.errors import CheckpointError

logger = get_logger(__name__)


def rotate(
    output_dir: Path | str, *, limit: int | None, run_id: str, best: str | None, keep: Collection[Path] = ()
) -> list[Path]:
    """Delete this run's oldest checkpoints until `limit` of them are left; return those deleted.

    Never deleted, even if more than `limit` are left then: the newest, the newest whole one, the best, and those in
    `keep`. So `limit=1` leaves two when the best isn't the newest, as in transformers. Checkpoints of other runs are
    neither deleted nor counted.

    Arguments:
        output_dir: Where the checkpoints are.
        limit: How many to leave; None or 0 deletes none.
        run_id: The run's own, as in the "run_id" of each checkpoint's `loopwright_state.json`.
        best: The path of the best one.
        keep: Paths not to touch: those in use, and the one just written, which is taken for whole without being read.
    """
    if limit is None or limit <= 0:
        return []
    own = sorted((path for path in list_checkpoints(output_dir) if _is_of_run(path, run_id)), key=_age)
    if len(own) <= limit:
        return []
    kept = {path.resolve() for path in keep}
    protected = {path for path in own if path.resolve() in kept or _is_best(path, best)}
    protected |= {own[-1], *_newest_whole(own, kept)}
    surplus = len(own) - max(limit, len(protected))
    doomed = [path for path in own if path not in protected][: max(surplus, 0)]
    return [path for path in doomed if _delete(path)]


def _is_of_run(checkpoint: Path, run_id: str) -> bool:
    try:
        state = load_loopwright_state(checkpoint)
    except CheckpointError:  # nobody can say whose it is
        return False
    return not checkpoint.is_symlink() and state is not None and state.get("run_id") == run_id


def _age(checkpoint: Path) -> tuple[float, int]:
    """Return the key that sorts the oldest first: a run that was taken further back writes lower steps later."""
    try:
        written_at = read_manifest(checkpoint).written_at
    except CheckpointError:
        written_at = 0.0
    return written_at, step_of(checkpoint) or 0


def _newest_whole(checkpoints: list[Path], vouched: Collection[Path]) -> list[Path]:
    for path in reversed(checkpoints):
        if path.resolve() in vouched or not find_damage(path):
            return [path]
    return []


def _is_best(checkpoint: Path, best: str | None) -> bool:
    if best is None:
        return False
    # Where the run's directory was moved or renamed, the state still holds the old path.
    return checkpoint.resolve() == Path(best).resolve() or (
        not Path(best).exists() and checkpoint.name == Path(best).name
    )


def _delete(checkpoint: Path) -> bool:
    try:
        hidden = hide(checkpoint, "gone")
    except OSError as error:
        logger.warning("could not delete %s: %s", checkpoint, error)
        return False
    remove_tree(hidden)
    return True
