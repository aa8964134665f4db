"""Trainings that the tests run in several processes; each function takes text and returns plain values."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from loopwright import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, gather_scalars
from loopwright.checkpoint import together, writer

torch.set_num_threads(1)

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        self.seen = []

    def forward(self, x, labels):
        self.seen.extend(x[:, 0].tolist())
        logits = self.layers(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)
        return {"loss": loss, "logits": logits}


class Divides(Net):
    """Divides the loss by the items of the whole update, as models of transformers do."""

    def forward(self, x, labels, num_items_in_batch=None):
        self.seen.extend(x[:, 0].tolist())
        logits = self.layers(x).flatten(0, -2)
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction=reduction)
        return {"loss": loss if num_items_in_batch is None else loss / num_items_in_batch}


MODELS = {"plain": Net, "divides": Divides}


def examples(count=22):
    """Return examples whose first number says which they are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=generator)
    x[:, 0] = torch.arange(count)
    labels = torch.randint(3, (count,), generator=generator)
    return [{"x": row / torch.tensor([10.0, 1, 1, 1]), "labels": label} for row, label in zip(x, labels, strict=True)]


class Stream(IterableDataset):
    def __init__(self, count):
        self.rows = examples(count)

    def __iter__(self):
        return iter(self.rows)


class Sets(TrainerCallback):
    """Sets a flag at a step, on one process."""

    def __init__(self, flag, step, rank, event="on_step_end", value=True):
        self.flag, self.step, self.rank, self.value = flag, step, rank, value
        setattr(self, event, self._set)

    def _set(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.rank == RANK:
            setattr(control, self.flag, self.value)


class Dies(TrainerCallback):
    """Ends one process at a step: by an exception, or at once."""

    def __init__(self, step, rank, how):
        self.step, self.rank, self.how = step, rank, how

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and self.rank == RANK:
            if self.how == "raise":
                raise ValueError("the cat is on the keyboard")
            os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGTERM)


class Notes(TrainerCallback):
    """Notes the steps at which events came."""

    def __init__(self):
        self.steps = {"save": [], "log": [], "evaluate": [], "end": []}

    def on_save(self, args, state, control, **kwargs):
        self.steps["save"].append(state.global_step)

    def on_log(self, args, state, control, **kwargs):
        self.steps["log"].append(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.steps["end"].append(state.global_step)


def make(output_dir, count=22, model="plain", dataset="map", callbacks=(), **options):
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8 // SIZE,
        "num_train_epochs": 2,
        "learning_rate": 0.05,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    args = TrainingArguments(str(output_dir), **(defaults | options))
    data = examples(count) if dataset == "map" else Stream(count)
    return Trainer(
        MODELS[model](),
        args,
        train_dataset=data,
        eval_dataset=examples(7) if args.eval_strategy != "no" else None,
        callbacks=list(callbacks),
    )


def whole_of(tensor):
    """Return a tensor, gathered where each process has a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def result(trainer):
    lines = [
        {key: value for key, value in line.items() if not key.endswith(("runtime", "per_second"))}
        for line in trainer.state.log_history
    ]
    weights = torch.cat([whole_of(parameter.detach()).flatten() for parameter in trainer.model.parameters()])
    return {
        "is_sharded": any(hasattr(parameter, "full_tensor") for parameter in trainer.model.parameters()),
        "weights": weights.tolist(),
        "history": lines,
        "seen": [round(number * 10) for number in trainer.model.seen],
        "step": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "decisions": list(map(str, trainer.callback_handler.decisions)),
        "flos": trainer.state.total_flos,
    }


def train(output_dir, options="{}", callbacks="[]", resume=""):
    """Train, and return what `result` says with the steps that `Notes` saw."""
    notes = Notes()
    made = [
        {"Sets": Sets, "Dies": Dies, "EarlyStopping": EarlyStoppingCallback}[name](*arguments)
        for name, *arguments in json.loads(callbacks)
    ]
    trainer = make(output_dir, callbacks=[*made, notes], **json.loads(options))
    trainer.train(resume_from_checkpoint=resume or None)
    return result(trainer) | {
        "steps": notes.steps,
        "checkpoints": sorted(path.name for path in Path(output_dir).glob("checkpoint-*")),
    }


def train_one_coming_late(output_dir, rank, options="{}", resume="auto"):
    """Train, process `rank` taking its time before it looks where the checkpoint had stood."""
    trainer = make(output_dir, **json.loads(options))
    if int(rank) == RANK:
        create = trainer.create_optimizer_and_scheduler

        def create_late(num_training_steps):
            time.sleep(2)
            create(num_training_steps)

        trainer.create_optimizer_and_scheduler = create_late
    trainer.train(resume_from_checkpoint=resume)
    return result(trainer)


def train_and_look(output_dir, options="{}", eval_count="7"):
    """Train on `train`'s data, then evaluate, predict, save and load; return what came of it."""
    trainer = make(output_dir, **json.loads(options))
    trainer.compute_metrics = lambda prediction: {"rows": len(prediction.predictions)}
    trainer.train()
    metrics = trainer.evaluate(examples(int(eval_count)))
    predicted = trainer.predict(examples(int(eval_count)))
    trainer.save_model(Path(output_dir) / "model")
    return {
        "metrics": {key: value for key, value in metrics.items() if not key.endswith(("runtime", "per_second"))},
        "predictions": predicted.predictions.tolist(),
        **result(trainer),
    }


def _failing(write, rank, where):
    def fail(*arguments):
        if rank == RANK and any(where in argument.name for argument in arguments if isinstance(argument, Path)):
            raise OSError(28, "No space left on device")
        return write(*arguments)

    return fail


def train_where_a_disk_is_full(output_dir, rank, step, options="{}"):
    """Train, process `rank` not being able to write its part of the checkpoint of `step`."""
    for module, name in ((together, "write_shard"), (writer, "write_manifest")):
        setattr(module, name, _failing(getattr(module, name), int(rank), f"checkpoint-{step}."))
    trainer = make(output_dir, **json.loads(options))
    trainer.train()
    return result(trainer) | {"checkpoints": sorted(path.name for path in Path(output_dir).glob("checkpoint-*"))}


def train_with_own_optimizer(output_dir, options="{}"):
    """Make a Trainer with an optimizer of its own."""
    model = Net()
    args = TrainingArguments(str(output_dir), report_to="none", use_cpu=True, **json.loads(options))
    Trainer(model, args, train_dataset=examples(), optimizers=(torch.optim.SGD(model.parameters(), 0.1), None))


class RunsOut(TrainerCallback):
    """Says that memory is out, at a place and a step of one process, while its batches are larger than what fits."""

    def __init__(self, rank, place, step, error="OutOfMemoryError", fits=2):
        self.is_here, self.place, self.step, self.fits = rank == RANK, place, step, fits
        self.error = error
        self.raised = []

    def watch(self, trainer):
        model = trainer.model
        optimizer_class, settings = trainer.optimizer_cls_and_kwargs or (torch.optim.SGD, {"lr": 0.05})
        model.register_forward_hook(lambda *_: self._at("forward", trainer) if model.training else None)
        model.layers[0].weight.register_hook(lambda _: self._at("backward", trainer))

        fault = self

        class Fails(optimizer_class):
            def step(self, closure=None):
                super().step(closure)  # the weights have moved when it raises
                fault._at("optimizer", trainer)

        trainer.optimizer_cls_and_kwargs = (Fails, settings)

    def on_step_end(self, args, state, control, **kwargs):
        if self.place == "callback" and self.is_here and state.global_step == self.step:
            self._fail()

    def _at(self, place, trainer):
        size = trainer._train_batch_size
        if self.is_here and place == self.place and trainer.state.global_step == self.step and size > self.fits:
            self.raised.append(size)
            self._fail()

    def _fail(self):
        raise torch.OutOfMemoryError("injected") if self.error == "OutOfMemoryError" else ValueError(self.error)


class Holds(TrainerCallback):
    """Keeps the wrapped model, which nobody else gets to see."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.held = self.trainer.model_wrapped


def train_where_memory_runs_out(output_dir, faults, options="{}", held=""):
    """Train from batches of 8 on; return what came of it, and the sizes at which memory was said to be out here."""
    found = [RunsOut(*fault) for fault in json.loads(faults)]
    trainer = make(output_dir, **json.loads(options))
    for fault in found or [RunsOut(-1, "", 0)]:
        fault.watch(trainer)
        trainer.add_callback(fault)
    if held:
        trainer.add_callback(Holds(trainer))
    trainer.train()
    return result(trainer) | {
        "raised": [size for fault in found for size in fault.raised],
        "size": trainer.state.train_batch_size,
    }


def train_in_a_group_of_ones_own(output_dir, options="{}"):
    """Train, the processes having been brought together before."""
    torch.distributed.init_process_group("gloo")
    trainer = make(output_dir, **json.loads(options))
    trainer.train()
    return result(trainer)


class Gathers(TrainerCallback):
    """Adds to each log line a number of every process."""

    def __init__(self, name="rank"):
        self.name = name

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, values in gather_scalars({self.name: torch.tensor(RANK + 0.5)}).items():
            logs.update({f"{name}/{rank}": value for rank, value in enumerate(values)})


def train_with_numbers_of_each(output_dir, differs="", options="{}"):
    """Train, each log line having a number of every process; with `differs` under a name of each one's own."""
    trainer = make(output_dir, callbacks=[Gathers(f"rank{RANK}" if differs else "rank")], **json.loads(options))
    trainer.train()
    return result(trainer)


def train_reporting(output_dir, tracker, options="{}"):
    """Train with a tracker; return the seconds between the first step and the last one beside the rest."""
    moments = []

    class Watches(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            moments.append(time.monotonic())

    trainer = make(output_dir, callbacks=[Watches()], report_to=tracker, **json.loads(options))
    trainer.train()
    return result(trainer) | {"seconds": moments[-1] - moments[0]}


def train_language_model(output_dir, options="{}", resume=""):
    """Train a small GPT-2 of transformers, whose head is tied to its embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, **still)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(64, (24, 16), generator=generator)
    args = TrainingArguments(
        str(output_dir),
        **{
            "per_device_train_batch_size": 8 // SIZE,
            "max_steps": 6,
            "logging_steps": 1,
            "learning_rate": 0.01,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        | json.loads(options),
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(GPT2LMHeadModel(config), args, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume or None)
    state = {name: whole_of(one) for name, one in trainer.model.state_dict().items()}
    return {
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "state": {name: tensor.float().tolist() for name, tensor in state.items()},
        "num_groups": sum(hasattr(module, "unshard") for module in trainer.model.modules()),
    }


def train_slowly(output_dir, seconds, options="{}", callbacks="[]"):
    """The same, each step taking so long."""

    class Waits(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            time.sleep(float(seconds))

    trainer = make(output_dir, callbacks=[Waits()], **json.loads(options))
    trainer.train()
    return result(trainer)
