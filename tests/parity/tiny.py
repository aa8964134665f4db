"""A training of three epochs of three steps, as both libraries take it."""

from __future__ import annotations

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, labels=None):
        logits = self.linear(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def data(count=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, generator=generator)
    return [{"x": row, "labels": (row.sum() > 0).long()} for row in x]


def build(library, tmp_path, **options):
    torch.manual_seed(0)
    callbacks = options.pop("callbacks", None)
    arguments = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
    }
    args = library.TrainingArguments(str(tmp_path), **(arguments | options))
    return library.Trainer(Tiny(), args, train_dataset=data(), eval_dataset=data(4), callbacks=callbacks)
