"""Durable model state: write it whole, verify it, read it back without executing anything, drop what is too old.

Names load on first use: `layout` must stay importable without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.checkpoint.consolidation import consolidate
    from loopwright.checkpoint.hidden import clear_leftovers
    from loopwright.checkpoint.layout import (
        PREFIX_CHECKPOINT_DIR,
        checkpoint_dir,
        get_last_checkpoint,
        list_checkpoints,
        step_of,
    )
    from loopwright.checkpoint.reader import (
        load_data_state,
        load_loopwright_state,
        load_model_weights,
        load_optimizer,
        load_randomness,
        load_scaler,
        load_scheduler,
        load_trainer_state,
        load_update,
    )
    from loopwright.checkpoint.rotation import rotate
    from loopwright.checkpoint.snapshot import Snapshot
    from loopwright.checkpoint.verify import find_damage, newest_whole, require_whole
    from loopwright.checkpoint.weights import write_model
    from loopwright.checkpoint.writer import write_checkpoint

__all__ = [
    "PREFIX_CHECKPOINT_DIR",
    "Snapshot",
    "checkpoint_dir",
    "clear_leftovers",
    "consolidate",
    "find_damage",
    "get_last_checkpoint",
    "list_checkpoints",
    "load_data_state",
    "load_loopwright_state",
    "load_model_weights",
    "load_optimizer",
    "load_randomness",
    "load_scaler",
    "load_scheduler",
    "load_trainer_state",
    "load_update",
    "newest_whole",
    "require_whole",
    "rotate",
    "step_of",
    "write_checkpoint",
    "write_model",
]

_NAMES_BY_HOME = {
    "consolidation": ("consolidate",),
    "hidden": ("clear_leftovers",),
    "layout": ("PREFIX_CHECKPOINT_DIR", "checkpoint_dir", "get_last_checkpoint", "list_checkpoints", "step_of"),
    "reader": (
        "load_data_state",
        "load_loopwright_state",
        "load_model_weights",
        "load_optimizer",
        "load_randomness",
        "load_scaler",
        "load_scheduler",
        "load_trainer_state",
        "load_update",
    ),
    "rotation": ("rotate",),
    "snapshot": ("Snapshot",),
    "verify": ("find_damage", "newest_whole", "require_whole"),
    "weights": ("write_model",),
    "writer": ("write_checkpoint",),
}
_HOMES = {name: home for home, names in _NAMES_BY_HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
