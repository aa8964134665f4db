"""Delete the checkpoints of a run that neither `save_total_limit` nor `save_top_k` asks to keep, and no other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.checkpoint.hidden import hide, remove_tree
from loopwright.checkpoint.layout import list_checkpoints, step_of
from loopwright.checkpoint.manifest import read_manifest
from loopwright.checkpoint.pins import is_pinned
from loopwright.checkpoint.reader import load_loopwright_state
from loopwright.checkpoint.verify import find_damage
from loopwright.errors import CheckpointError

logger: Logger = get_logger(__name__)


def rotate(  # noqa: PLR0913 -- each says of some checkpoints that they stay
    output_dir: Path | str,
    *,
    limit: int | None,
    run_id: str,
    best: str | None,
    keep: Collection[Path] = (),
    top_k: int | None = None,
    greater_is_better: bool | None = None,
) -> list[Path]:
    """Delete this run's oldest checkpoints until `limit` of them are left, or `top_k` beside the newest; return those.

    Never deleted, even if more than `limit` are left then: the newest, the newest whole one, the best, the `top_k` best
    and those in `keep`. So `limit=1` leaves two when the best isn't the newest, as in transformers. With `top_k` alone
    all others go; with both, others stay, newest first, until `limit` are left. Checkpoints of other runs, and those
    that somebody pinned, are neither deleted nor counted.

    Arguments:
        output_dir: Where the checkpoints are.
        limit: How many to leave; with None or 0, none is deleted unless `top_k` says so.
        run_id: The run's own, as in the "run_id" of each checkpoint's `loopwright_state.json`.
        best: The path of the best one.
        keep: Paths not to touch: those in use, and the one just written, which is taken for whole without being read.
        top_k: How many to leave because of their value in the "metric" of `loopwright_state.json`, the newer of two
            equal ones. Only those count that name the metric which the newest of them names; NaN doesn't.
        greater_is_better: Whether a higher value is better; None means yes unless the metric's name ends in "loss".
    """
    limit, top_k = max(limit or 0, 0), max(top_k or 0, 0)
    if not limit and not top_k:
        return []
    own = _own_checkpoints(output_dir, run_id, at_least=max(limit, 1))
    if len(own) <= max(limit, 1):
        return []
    checkpoints = [path for path, _ in own]
    kept = {path.resolve() for path in keep}
    protected = {path for path in checkpoints if path.resolve() in kept or is_best(path, best)}
    protected |= {checkpoints[-1], *_top(own, top_k, greater_is_better)}
    if len(protected) < len(own):
        protected |= {*_newest_whole(checkpoints, kept)}
    doomed = [path for path in checkpoints if path not in protected][: len(own) - limit]
    return [path for path in doomed if _delete(path)]


def is_best(checkpoint: Path, best: str | None) -> bool:
    """Return whether `best`, a state's `best_model_checkpoint`, means this checkpoint, wherever that was moved to."""
    if best is None:
        return False
    # Where the run's directory was moved or renamed, the state still holds the old path.
    return checkpoint.resolve() == Path(best).resolve() or (
        not Path(best).exists() and checkpoint.name == Path(best).name
    )


def _own_checkpoints(output_dir: Path | str, run_id: str, at_least: int) -> list[tuple[Path, dict[str, Any]]]:
    """Return this run's checkpoints that aren't pinned, oldest first, each with what `loopwright_state.json` holds.

    None, and nothing is read, where even with those of other runs there are no more than `at_least`.
    """
    candidates = [path for path in list_checkpoints(output_dir) if not path.is_symlink() and not is_pinned(path)]
    if len(candidates) <= at_least:
        return []
    states = [(path, _state_of(path)) for path in candidates]
    return sorted(((path, state) for path, state in states if state.get("run_id") == run_id), key=_age)


def _state_of(checkpoint: Path) -> dict[str, Any]:
    try:
        return load_loopwright_state(checkpoint) or {}
    except CheckpointError:  # nobody can say whose it is
        return {}


def _age(own: tuple[Path, Any]) -> tuple[float, int]:
    """Return the key that sorts the oldest first: a run that was taken further back writes lower steps later."""
    checkpoint = own[0]
    try:
        written_at = read_manifest(checkpoint).written_at
    except CheckpointError:
        written_at = 0.0
    return written_at, step_of(checkpoint) or 0


def _top(own: Sequence[tuple[Path, dict[str, Any]]], top_k: int, greater_is_better: bool | None) -> list[Path]:
    """Return the `top_k` best, of `own` in the order of their ages."""
    measured = [(path, *found) for path, state in own if top_k and (found := _measured(state)) is not None]
    if not measured:
        return []
    name = measured[-1][1]
    if greater_is_better is None:
        greater_is_better = not name.endswith("loss")
    sign = 1 if greater_is_better else -1
    ranked = [(sign * value, age, path) for age, (path, other, value) in enumerate(measured) if other == name]
    return [path for _, _, path in sorted(ranked)[-top_k:]]


def _measured(state: dict[str, Any]) -> tuple[str, float] | None:
    """Return name and value of the metric measured at the checkpoint's step, or None where there is no such number."""
    metric = state.get("metric")
    if not isinstance(metric, dict):
        return None
    name, value = metric.get("name"), metric.get("value")
    if not isinstance(name, str) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and math.isnan(value):  # an int may be too large to ask
        return None
    return name, value


def _newest_whole(checkpoints: list[Path], vouched: Collection[Path]) -> list[Path]:
    for path in reversed(checkpoints):
        if path.resolve() in vouched or not find_damage(path):
            return [path]
    return []


def _delete(checkpoint: Path) -> bool:
    if is_pinned(checkpoint):  # since then
        return False
    try:
        hidden = hide(checkpoint, "gone")
    except OSError as error:
        logger.warning("could not delete %s: %s", checkpoint, error)
        return False
    remove_tree(hidden)
    return True
