"""The import path that transformers users know: `from loopwright.integrations import WandbCallback`.

Each tracker is loaded on first use, and no SDK with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.trackers.azureml import AzureMLCallback
    from loopwright.trackers.base import TrackerCallback
    from loopwright.trackers.clearml import ClearMLCallback
    from loopwright.trackers.codecarbon import CodeCarbonCallback
    from loopwright.trackers.comet import CometCallback
    from loopwright.trackers.dagshub import DagsHubCallback
    from loopwright.trackers.dvclive import DVCLiveCallback
    from loopwright.trackers.flyte import FlyteCallback
    from loopwright.trackers.mlflow import MLflowCallback
    from loopwright.trackers.neptune import NeptuneCallback
    from loopwright.trackers.swanlab import SwanLabCallback
    from loopwright.trackers.tensorboard import TensorBoardCallback
    from loopwright.trackers.trackio import TrackioCallback
    from loopwright.trackers.wandb import WandbCallback

_HOME = {
    "AzureMLCallback": "azureml",
    "ClearMLCallback": "clearml",
    "CodeCarbonCallback": "codecarbon",
    "CometCallback": "comet",
    "DVCLiveCallback": "dvclive",
    "DagsHubCallback": "dagshub",
    "FlyteCallback": "flyte",
    "MLflowCallback": "mlflow",
    "NeptuneCallback": "neptune",
    "SwanLabCallback": "swanlab",
    "TensorBoardCallback": "tensorboard",
    "TrackerCallback": "base",
    "TrackioCallback": "trackio",
    "WandbCallback": "wandb",
}

__all__ = [
    "AzureMLCallback",
    "ClearMLCallback",
    "CodeCarbonCallback",
    "CometCallback",
    "DVCLiveCallback",
    "DagsHubCallback",
    "FlyteCallback",
    "MLflowCallback",
    "NeptuneCallback",
    "SwanLabCallback",
    "TensorBoardCallback",
    "TrackerCallback",
    "TrackioCallback",
    "WandbCallback",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"loopwright.trackers.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
