"""Datasets and loaders that the tests of this folder share."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.data import IterableDataset

from loopwright.data.collate import default_data_collator
from loopwright.data.loaders import build_train_loader


def make_args(**changes):
    options = {
        "seed": 3,
        "data_seed": None,
        "use_cpu": False,
        "train_sampling_strategy": "random",
        "dataloader_drop_last": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": True,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
        "dataloader_multiprocessing_context": None,
        "dataloader_in_order": True,
    }
    return SimpleNamespace(**(options | changes))


class Recorded(torch.utils.data.Dataset):
    """Remembers, in memory that workers share, which examples were loaded."""

    def __init__(self, length):
        self.loaded = torch.zeros(length, dtype=torch.int64).share_memory_()

    def __len__(self):
        return len(self.loaded)

    def __getitem__(self, index):
        self.loaded[index] += 1
        return {"x": index}


class Stream(IterableDataset):
    def __init__(self, length):
        self.length = length
        self.epochs = []

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return ({"x": index} for index in range(first, self.length, step))

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class Draws(torch.utils.data.Dataset):
    """Returns what each of the three random streams gives in the process that loads."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": [random.random(), float(np.random.rand()), float(torch.rand(()))]}


def train_loader(dataset, batch_size=4, sampler=None, **changes):
    return build_train_loader(
        dataset, make_args(**changes), default_data_collator, sampler=sampler, batch_size=batch_size
    )


def values(batches):
    return [batch["x"].tolist() for batch in batches]
