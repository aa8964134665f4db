"""The environment that every test runs in, set before any library reads it."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.update(
    COMET_DISABLE_AUTO_LOGGING="1",  # comet_ml would patch other libraries at its import
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",  # two workers on two cores; and sums are the same bit for bit whatever the machine
    TOKENIZERS_PARALLELISM="false",  # no threads before a fork
    WANDB_MODE="offline",
)

import pytest
import torch

torch.set_num_threads(1)

# The files that take longest, the longest first: begun last, one of them would have a worker to itself in the end.
LONGEST = (
    "trackers/test_faults_of_services.py",
    "trackers/test_faults.py",
    "trackers/test_neptune.py",
    "crash/test_trackers_after_kills.py",
    "trackers/test_dvclive.py",
    "trackers/test_codecarbon.py",
    "benchmarks/test_checkpoint_suites.py",
    "trackers/test_comet.py",
    "crash/test_exact_resume.py",
    "benchmarks/test_benchmarks.py",
    "crash/test_signals.py",
    "examples/test_digits.py",
    "trackers/test_tensorboard.py",
    "contracts/test_trackers.py",
    "report/test_browser.py",
    "trackers/test_azureml.py",
    "trackers/test_trackio.py",
    "trackers/test_flyte.py",
    "trackers/test_all.py",
    "checkpoint/test_kills.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
