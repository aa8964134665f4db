"""Say which checkpoints a run wrote, and what is left of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loopwright import checkpoint
from loopwright.checkpoint.layout import LOOPWRIGHT_STATE_NAME, MANIFEST_NAME, list_checkpoints, step_of
from loopwright.checkpoint.manifest import count_files, find_size_damage, written_at
from loopwright.checkpoint.pins import is_pinned
from loopwright.records import Record
from loopwright.report.views import CheckpointView


def read_checkpoints(
    directory: Path, run_id: str, records: Iterable[Record], *, verify: bool = False
) -> tuple[CheckpointView, ...]:
    """Return the checkpoints that a run recorded, and those in `directory` that name it, lowest step first.

    Arguments:
        directory: The output directory.
        run_id: The run.
        records: Its records of checkpoints.
        verify: Read every byte, which loads torch, rather than compare sizes.
    """
    recorded = {Path(str(record.values.get("path", ""))).name: record for record in records}
    found = []
    for path in _listed(directory):
        record = recorded.get(path.name)
        owner = _owner(path)
        # Another run may have written its own in the place of a recorded one.
        if owner == run_id or (owner is None and record is not None):
            recorded.pop(path.name, None)
            found.append(_examine(path, record, verify=verify))
    found += [
        CheckpointView(directory / name, record.step, "deleted", time=record.time, attempt=record.attempt)
        for name, record in recorded.items()
    ]
    return tuple(sorted(found, key=lambda view: (view.step or 0, view.path.name)))


def _listed(directory: Path) -> list[Path]:
    try:
        return list_checkpoints(directory)
    except OSError:
        return []


def _owner(path: Path) -> str | None:
    try:
        state: Any = json.loads((path / LOOPWRIGHT_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    run_id = state.get("run_id") if isinstance(state, dict) else None
    return run_id if isinstance(run_id, str) else None


def _examine(path: Path, record: Record | None, *, verify: bool) -> CheckpointView:
    has_manifest = os.path.lexists(path / MANIFEST_NAME)
    try:
        damage = checkpoint.find_damage(path) if verify else _compare_sizes(path, has_manifest=has_manifest)
    except OSError as error:
        damage = [f"can't be read: {error.strerror}"]
    if damage:
        state = "damaged"
    elif not has_manifest:
        state = "unverified"
    else:
        state = "whole" if verify else "sizes match"
    return CheckpointView(
        path=path,
        step=step_of(path),
        state=state,
        damage=tuple(damage),
        size=count_files(path)[1],
        time=written_at(path) or (record.time if record else None),
        attempt=record.attempt if record else None,
        is_pinned=is_pinned(path),
    )


def _compare_sizes(path: Path, *, has_manifest: bool) -> list[str]:
    return find_size_damage(path) if has_manifest else []
