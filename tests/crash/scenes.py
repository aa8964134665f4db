"""Trainings in every combination that has to be resumable exactly; each is a function of its name and directory."""

from __future__ import annotations

import random
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from loopwright import EarlyStoppingCallback, ExportableState, Preempted, Trainer, TrainerCallback, TrainingArguments

COUNT = 46  # examples: 23 batches of 2, an epoch that accumulation by 3 doesn't divide
VOLATILE = ("_runtime", "_per_second")


class Centred(nn.Module):
    """Takes off a running mean, which every forward in training changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().float().mean(0), 0.1)
        return x - self.mean


class Network(nn.Module):
    """Small, with dropout and with statistics that a forward changes; `ballast` makes saves long enough to be hit."""

    def __init__(self, ballast=0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), Centred(), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.ballast = nn.Parameter(torch.zeros(ballast)) if ballast else None

    def forward(self, x, labels=None):
        predicted = self.layers(x).squeeze(-1)
        loss = nn.functional.mse_loss(predicted, labels)
        if self.ballast is not None:
            loss = loss + self.ballast[:2].sum() * 0
        return {"loss": loss, "logits": predicted}


def augmented(index):
    """Return an example with noise from all three random streams of the process that loads it."""
    x = torch.tensor([index / COUNT, 1 - index / COUNT, (index % 5) / 5])
    noise = 0.1 * torch.randn(3) + 0.1 * random.random() + 0.1 * float(np.random.rand())
    return {"x": x + noise, "labels": x.sum()}


class Images(Dataset):
    def __init__(self, count=COUNT):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return augmented(index)


class SlowImages(Images):
    """Takes its time, so that a training waits for its workers most of it."""

    def __getitem__(self, index):
        time.sleep(0.02)
        return augmented(index)


class Stream(IterableDataset):
    """Shuffles through a buffer by torch's global stream, of which dropout draws too, and carries no state."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        buffer = []
        for index in range(first, COUNT, step):
            buffer.append(index)
            if len(buffer) == 6:
                yield augmented(buffer.pop(int(torch.randint(6, ()))))
        yield from map(augmented, buffer)


class CountingStream(IterableDataset):
    """Carries its position, and says how many examples it has read in this process."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        while self.position < COUNT:
            self.position += 1
            yield augmented(self.position - 1)
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def hugging_face(*, shuffles=False):
    rows = datasets.Dataset.from_dict({"index": list(range(COUNT))})
    stream = rows.to_iterable_dataset(num_shards=4)
    if shuffles:
        stream = stream.shuffle(seed=1, buffer_size=7)
    return stream.map(lambda row: augmented(row["index"]), remove_columns=["index"]).with_format("torch")


class Counter(TrainerCallback, ExportableState):
    """Counts what it hears, so that an event lost or repeated shows."""

    def __init__(self):
        self.heard = {}

    def _hear(self, event):
        self.heard[event] = self.heard.get(event, 0) + 1

    def on_step_begin(self, args, state, control, **kwargs):
        self._hear("step_begin")

    def on_substep_end(self, args, state, control, **kwargs):
        self._hear("substep_end")

    def on_step_end(self, args, state, control, **kwargs):
        self._hear("step_end")

    def on_evaluate(self, args, state, control, **kwargs):
        self._hear("evaluate")

    def on_log(self, args, state, control, **kwargs):
        self._hear("log")

    def state(self):
        return {"args": {}, "attributes": {"heard": dict(self.heard)}}


class OwnLoader(Trainer):
    """Brings a loader of its own, as many trainings do."""

    make_loader = None

    def get_train_dataloader(self):
        return type(self).make_loader()


def _plain_loader(num_workers=0, persistent=False):
    return DataLoader(Images(), batch_size=2, shuffle=True, num_workers=num_workers, persistent_workers=persistent)


def _stateful_loader(num_workers=0, dataset=Images, shuffle=True):
    return StatefulDataLoader(dataset(), batch_size=2, shuffle=shuffle, num_workers=num_workers)


# name -> (arguments, dataset, loader of its own)
SCENES = {
    "map-style": ({}, Images, None),
    "map-style, 2 workers": ({"dataloader_num_workers": 2}, Images, None),
    "map-style, 2 persistent workers": (
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "gradient_accumulation_steps": 3},
        Images,
        None,
    ),
    "own loader, global shuffle": ({}, Images, _plain_loader),
    "own loader, global shuffle, 2 persistent workers": ({}, Images, lambda: _plain_loader(2, persistent=True)),
    "iterable": ({"max_steps": 50}, Stream, None),
    "iterable, 2 workers": ({"max_steps": 50, "dataloader_num_workers": 2}, Stream, None),
    "iterable with state": ({"max_steps": 50, "gradient_accumulation_steps": 2}, CountingStream, None),
    "hugging face": ({"max_steps": 50}, hugging_face, None),
    "hugging face, 2 workers": ({"max_steps": 50, "dataloader_num_workers": 2}, hugging_face, None),
    "hugging face, shuffled": ({"max_steps": 50}, lambda: hugging_face(shuffles=True), None),
    "stateful loader": ({}, Images, _stateful_loader),
    "stateful loader, 2 workers": ({"gradient_accumulation_steps": 3}, Images, lambda: _stateful_loader(2)),
    "stateful loader of a stream": (
        {"max_steps": 50}, Images, lambda: _stateful_loader(0, CountingStream, shuffle=None)
    ),
    "accumulation, epochs": (
        {"gradient_accumulation_steps": 3, "save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 4},
        Images,
        None,
    ),
    "early stopping": (
        {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "metric_for_best_model": "loss", "patience": 4},
        Images,
        None,
    ),
    "plateau": ({"eval_strategy": "steps", "eval_steps": 4, "lr_scheduler_type": "reduce_lr_on_plateau"}, Images, None),
    "bf16": ({"bf16": True}, Images, None),
    "fp16": ({"fp16": True}, Images, None),
    "beside training": ({"save_async": True, "ballast": 400_000, "save_steps": 2}, Images, None),
    "large": ({"ballast": 400_000, "save_steps": 4}, Images, None),
}  # fmt: skip


# Where a signal finds the training evaluating, or waiting for data.
SLOW_SCENES = {
    "slow evaluation": ({"eval_strategy": "steps", "eval_steps": 3, "slow_evaluation": True}, Images, None),
    "slow evaluation, epochs": (
        {"eval_strategy": "epoch", "save_strategy": "epoch", "slow_evaluation": True, "num_train_epochs": 4},
        Images,
        None,
    ),
    "slow evaluation, 2 workers": (
        {"eval_strategy": "steps", "eval_steps": 5, "slow_evaluation": True, "dataloader_num_workers": 2}, Images, None
    ),
    "slow data": ({"num_train_epochs": 1, "gradient_accumulation_steps": 3}, SlowImages, None),
    "slow data, 2 workers": (
        {"num_train_epochs": 2, "gradient_accumulation_steps": 3, "dataloader_num_workers": 2}, SlowImages, None
    ),
}  # fmt: skip


def build(scene, directory, *, callbacks=(), **changes):
    """Return the Trainer of `scene`, writing into `directory`."""
    arguments, dataset, loader = (SCENES | SLOW_SCENES)[scene]
    options = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "logging_steps": 4,
        "save_steps": 3,
        "save_total_limit": 3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
        **arguments,
        **changes,
    }
    patience, ballast = options.pop("patience", None), options.pop("ballast", 0)
    few = SlowImages(6) if options.pop("slow_evaluation", False) else Images(6)
    torch.manual_seed(0)
    stopping = [] if patience is None else [EarlyStoppingCallback(patience)]
    kind = Trainer if loader is None else type("Own", (OwnLoader,), {"make_loader": staticmethod(loader)})
    return kind(
        Network(ballast),
        TrainingArguments(str(directory), **options),
        train_dataset=dataset(),
        eval_dataset=few,
        callbacks=[Counter(), *stopping, *callbacks],
    )


def outcome(trainer):
    """Return all that has to be the same in the end, in plain values."""
    history = [
        {key: value for key, value in line.items() if not key.endswith(VOLATILE)} for line in trainer.state.log_history
    ]
    stateful = [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]
    return {
        "weights": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "history": history,
        "callbacks": [one.state() for one in stateful],
        "step": trainer.state.global_step,
        "epoch": trainer.state.epoch,
        "best": (trainer.state.best_metric, trainer.state.best_global_step),
    }


def differences(one, other, path=""):
    """Return where two outcomes differ, bit for bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} entries: {one} {other}"]
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{path}/{i}")
        ]
    return [] if one == other or repr(one) == repr(other) else [f"{path}: {one} and {other}"]


def train(scene, directory, **changes):
    """Train `scene`, going on from whatever is in `directory`, and leave the outcome there."""
    trainer = build(scene, directory, **changes)
    try:
        trainer.train(resume_from_checkpoint="auto")
    except Preempted:
        if trainer.training_loop.is_paused:
            raise
        _leave(outcome(trainer), Path(directory))  # the signal came when there was nothing left to do
        raise
    _leave(outcome(trainer), Path(directory))


def _leave(found, directory):
    torch.save(found, directory / "outcome.tmp")
    (directory / "outcome.tmp").rename(directory / "outcome.pt")
