"""A training as somebody writes it who has installed Loopwright and nothing else: python program.py OUTPUT_DIR."""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

import loopwright
from loopwright import EarlyStoppingCallback, Trainer, TrainingArguments


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def main():
    data = [{"x": torch.tensor(x / 10), "labels": torch.tensor(3 * x / 10)} for x in range(32)]
    arguments = TrainingArguments(
        sys.argv[1],
        num_train_epochs=4,
        learning_rate=0.2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    callbacks = [EarlyStoppingCallback(3)]
    trainer = Trainer(Line(), arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint="auto")
    print(
        json.dumps({"where": loopwright.__file__, "step": trainer.state.global_step, "best": trainer.state.best_metric})
    )


if __name__ == "__main__":
    main()
