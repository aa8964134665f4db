"""The environment that every test runs in, set before any library reads it."""

from __future__ import annotations

import os

os.environ.update(
    COMET_DISABLE_AUTO_LOGGING="1",  # comet_ml would patch other libraries at its import
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",  # two workers on two cores; and sums are the same bit for bit whatever the machine
    TOKENIZERS_PARALLELISM="false",  # no threads before a fork
    WANDB_MODE="offline",
)

import torch

torch.set_num_threads(1)
