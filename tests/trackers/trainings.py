"""Small trainings with dropout, and comparisons of what a journal and a service hold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.naming import group_name, numbers

# What a faulty tracker suffers, and where.
FAULTS = ("raise", "raise-after", "exit", "hang", "hang-after")
FAULT_PLACES = ("open", "deliver", "artifact", "close")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        predicted = self.layers(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


class BreakAtStep(TrainerCallback):
    """Does something at a step, and gives delivery time to notice."""

    def __init__(self, steps: dict[int, Any]) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.25)
        if state.global_step in self.steps:
            self.steps[state.global_step]()


class UntilFault(TrainerCallback):
    """Waits, past the first checkpoint, until a faulty tracker's fault has happened: an SDK's import takes its time.

    Arguments:
        directory: Where the tracker says so.
        where: The fault's place. For "close", which comes after training, something has to be delivered by now.
    """

    def __init__(self, directory: Path, where: str) -> None:
        self.sign = directory / ("delivered" if where == "close" else "fault-met")
        self.waited = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            began = time.monotonic()
            while not self.sign.exists():
                assert time.monotonic() - began < 90, f"{self.sign.name} never came"
                time.sleep(0.02)
            self.waited = time.monotonic() - began


def examples(count: int = 24) -> list[dict[str, torch.Tensor]]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": row.sum()} for row in x]


def build(directory: Path, *, callbacks: Any = (), model: nn.Module | None = None, **arguments: Any) -> Trainer:
    """Return a Trainer over 24 examples, 12 steps an epoch; calls of trackers may take 2 s, their end 10."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_steps": 5,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "tracker_open_timeout": 10,
        "tracker_call_timeout": 2,
        "tracker_close_timeout": 10,
    }
    return Trainer(
        Network() if model is None else model,
        TrainingArguments(str(directory), **(defaults | arguments)),
        train_dataset=examples(),
        eval_dataset=examples(4),
        callbacks=list(callbacks),
    )


def tracker_at(home: str, kind: Any) -> Any:
    """Return a tracker for the delivery process, or one that stays in the training's: it overrides, as users' do."""
    if home == "delivery":
        return kind()
    return type("Here", (kind,), {"on_epoch_end": lambda self, *args, **kwargs: None, "__module__": __name__})()


def deliver_what_is_left(directory: Path, *options: str, modules: Path | None = None) -> None:
    """Run `loopwright sync`, which has to deliver everything; `modules` is where it finds trackers that aren't ours."""
    command = [sys.executable, "-m", "loopwright", "sync", str(directory), *options]
    paths = [str(modules)] if modules is not None else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, sys.path)])}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [value.clone() for value in trainer.model.state_dict().values()]


def same_weights(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def journal_points(directory: Path, run_id: str | None = None) -> dict[tuple[str, int, int], str]:
    """Return (name, step, time in ms) -> value of everything that counts, as the generic service keeps it."""
    with JournalReader(directory) as reader:
        records = reader.records(run_id, kinds=[Kind.LOG, Kind.PREDICTION])
    found: dict[tuple[str, int, int], str] = {}
    for record in records:
        for name, value in numbers(record.values):
            found[(group_name(name), record.step, round(record.time * 1000))] = repr(value)
    return found
