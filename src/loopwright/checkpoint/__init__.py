"""Durable model state: write it whole, verify it, read it back without executing anything, drop what is too old.

Names load on first use: `layout` must stay importable without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.checkpoint.hidden import clear_leftovers
    from loopwright.checkpoint.layout import (
        PREFIX_CHECKPOINT_DIR,
        checkpoint_dir,
        get_last_checkpoint,
        list_checkpoints,
        step_of,
    )
    from loopwright.checkpoint.reader import (
        load_loopwright_state,
        load_model_weights,
        load_optimizer,
        load_randomness,
        load_scaler,
        load_scheduler,
        load_trainer_state,
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
    "find_damage",
    "get_last_checkpoint",
    "list_checkpoints",
    "load_loopwright_state",
    "load_model_weights",
    "load_optimizer",
    "load_randomness",
    "load_scaler",
    "load_scheduler",
    "load_trainer_state",
    "newest_whole",
    "require_whole",
    "rotate",
    "step_of",
    "write_checkpoint",
    "write_model",
]

_HOMES = {
    "Snapshot": "snapshot",
    "clear_leftovers": "hidden",
    "find_damage": "verify",
    "newest_whole": "verify",
    "require_whole": "verify",
    "rotate": "rotation",
    "write_checkpoint": "writer",
    "write_model": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "reader" if name.startswith("load_") else "layout")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
