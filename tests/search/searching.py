"""A Trainer whose trainings take some hundredths of a second, to search with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

from loopwright import Trainer, TrainingArguments
from loopwright.journal.reader import JournalReader


class Network(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        predicted = self.layers(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


def examples(count: int = 24) -> list[dict[str, torch.Tensor]]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": row.sum()} for row in x]


def arguments(directory: Path, library: Any = None, **options: Any) -> Any:
    """Return arguments of 3 epochs of 3 steps, an evaluation and a checkpoint in each."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    kind = TrainingArguments if library is None else library.TrainingArguments
    return kind(str(directory), **(defaults | options))


def build(directory: Path, *, library: Any = None, callbacks: Any = (), model_init: Any = None, **options: Any) -> Any:
    """Return a Trainer, of ours or of another library."""
    return (Trainer if library is None else library.Trainer)(
        model_init=model_init or (lambda: Network(4)),
        args=arguments(directory, library, **options),
        train_dataset=examples(),
        eval_dataset=examples(8),
        callbacks=list(callbacks),
    )


def space(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def sampler() -> Any:
    return optuna.samplers.RandomSampler(seed=0)


def stored(path: Path, name: str = "study") -> dict[str, Any]:
    """Return the options that keep a study in a file and go on with it."""
    return {"storage": f"sqlite:///{path}", "study_name": name, "load_if_exists": True}


def ends(directory: Path) -> list[tuple[str, str | None]]:
    """Return how the attempts in a journal ended, and why."""
    with JournalReader(directory) as reader:
        return [(str(attempt.status), attempt.reason) for attempt in reader.attempts()]
