"""The import path that transformers users know: `from loopwright.integrations import WandbCallback`.

Each tracker is loaded on first use, and no SDK with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.trackers.base import TrackerCallback
    from loopwright.trackers.codecarbon import CodeCarbonCallback
    from loopwright.trackers.dvclive import DVCLiveCallback
    from loopwright.trackers.mlflow import MLflowCallback
    from loopwright.trackers.tensorboard import TensorBoardCallback
    from loopwright.trackers.wandb import WandbCallback

_HOME = {
    "CodeCarbonCallback": "codecarbon",
    "DVCLiveCallback": "dvclive",
    "MLflowCallback": "mlflow",
    "TensorBoardCallback": "tensorboard",
    "TrackerCallback": "base",
    "WandbCallback": "wandb",
}

__all__ = [
    "CodeCarbonCallback",
    "DVCLiveCallback",
    "MLflowCallback",
    "TensorBoardCallback",
    "TrackerCallback",
    "WandbCallback",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"loopwright.trackers.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
