"""The same script under `transformers.Trainer` and under ours shows callbacks the same events, in the same order."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import IterableDataset

import loopwright

LIBRARIES = {"transformers": transformers, "loopwright": loopwright}
EVENTS = [event for event in loopwright.Event if event not in ("on_exception", "on_push_begin")]
FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")


class Line(nn.Module):
    """A straight line through points, so small that a step is all loop."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x, labels=None):
        predicted = self.linear(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


def points(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    return [{"x": row, "labels": row.sum()} for row in x]


class Stream(IterableDataset):
    def __init__(self, count):
        self.examples = points(count)

    def __iter__(self):
        return iter(self.examples)


def recorder(library):
    """Return a callback of `library` that writes down every event, and the trace it writes into."""
    trace = []

    def recording(event):
        def record(self, args, state, control, **kwargs):
            flags = "".join(str(int(getattr(control, flag))) for flag in FLAGS)
            # Before training transformers says epoch 0, the seed None.
            epoch = round(state.epoch, 6) if state.epoch else 0
            trace.append((str(event), state.global_step, epoch, flags, sorted(kwargs.get("metrics", {}))))

        return record

    members = {str(event): recording(event) for event in EVENTS}
    return type("Recorder", (library.TrainerCallback,), members)(), trace


def stopper(library, event, step, flag, **conditions):
    """Return a callback that sets `flag` at `event` of `step`."""

    def act(self, args, state, control, **kwargs):
        if state.global_step == step:
            setattr(control, flag, True)
        return control

    return type("Stopper", (library.TrainerCallback,), {event: act})()


def worsening(prediction):
    """A metric that gets worse from its third evaluation on, whatever the predictions are."""
    worsening.calls += 1
    return {"score": [1.0, 3.0, 2.0, 1.5, 1.0, 0.5, 0.2, 0.1][min(worsening.calls, 8) - 1]}


def run(name, output_dir, *, train=16, evaluation=6, metric=None, callbacks=(), resume_after=None, seed=1, **arguments):
    library = LIBRARIES[name]
    torch.manual_seed(seed)
    worsening.calls = 0
    defaults = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "logging_steps": 3,
        "save_steps": 4,
    }
    eval_data = evaluation if isinstance(evaluation, dict) else points(evaluation, seed=1)

    def make(extra=()):
        record, trace = recorder(library)
        trainer = library.Trainer(
            Line(),
            library.TrainingArguments(str(output_dir / name), **(defaults | arguments)),
            train_dataset=points(train) if isinstance(train, int) else train,
            eval_dataset=eval_data,
            compute_metrics=metric,
            callbacks=[*(make_callback(library) for make_callback in (*callbacks, *extra)), record],
        )
        return trainer, trace

    if resume_after is None:
        trainer, trace = make()
        trainer.train()
        return trainer, trace
    first, _ = make([lambda library: stopper(library, "on_step_end", resume_after, "should_training_stop")])
    first.train()
    trainer, trace = make()
    trainer.train(resume_from_checkpoint=True)
    return trainer, trace


def early(library):
    return library.EarlyStoppingCallback(early_stopping_patience=2)


BEST = {"load_best_model_at_end": True, "metric_for_best_model": "score", "metric": worsening}
SCENES = {
    "steps": {"eval_strategy": "steps", "eval_steps": 3},
    "epochs": {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"},
    "accumulation": {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2},
    "accumulation with a short last group": {"gradient_accumulation_steps": 3, "logging_steps": 1, "save_steps": 2},
    "short last batch": {"train": 15, "logging_first_step": True, "eval_strategy": "epoch"},
    "drop last": {"train": 15, "dataloader_drop_last": True, "gradient_accumulation_steps": 2, "logging_steps": 1},
    "max_steps within an epoch": {"max_steps": 5, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2},
    "max_steps beyond the data": {"max_steps": 19, "logging_strategy": "epoch", "save_strategy": "no"},
    "part of an epoch": {"num_train_epochs": 1.5, "eval_strategy": "epoch", "save_strategy": "epoch"},
    "ratios": {"logging_steps": 0.2, "eval_strategy": "steps", "eval_steps": 0.25, "save_steps": 0.5},
    "eval delay": {"eval_delay": 7, "eval_strategy": "steps", "eval_steps": 2},
    "eval delay in epochs": {"eval_delay": 2, "eval_strategy": "epoch", "num_train_epochs": 3},
    "two evaluation sets": {
        "evaluation": {"a": points(4), "b": points(3)}, "eval_strategy": "steps", "eval_steps": 5,
    },
    "early stopping": {
        "callbacks": [early], "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "num_train_epochs": 4, **BEST,
    },
    "early stopping by epochs": {
        "callbacks": [early], "eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 8, **BEST,
    },
    "save best": {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 2, **BEST},
    "plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
    "iterable": {"train": Stream(10), "max_steps": 12, "logging_steps": 2},
    "resume within an epoch": {"resume_after": 6, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3},
    "resume with accumulation": {"resume_after": 3, "save_steps": 1, "gradient_accumulation_steps": 2},
    "resume at an epoch's end": {"resume_after": 9, "save_strategy": "epoch", "eval_strategy": "epoch"},
    "epoch stopped": {"callbacks": [lambda library: stopper(library, "on_step_end", 3, "should_epoch_stop")]},
    "stopped within an update": {
        "gradient_accumulation_steps": 4,
        "callbacks": [lambda library: stopper(library, "on_substep_end", 2, "should_training_stop")],
    },
    "log asked for": {
        "logging_steps": 100, "callbacks": [lambda library: stopper(library, "on_step_end", 3, "should_log")],
    },
    "evaluation asked for at a step's beginning": {
        "callbacks": [lambda library: stopper(library, "on_step_begin", 3, "should_evaluate")],
    },
    "save asked for at a log": {
        "save_strategy": "no", "callbacks": [lambda library: stopper(library, "on_log", 3, "should_save")],
    },
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_events_are_those_of_transformers(scene, tmp_path):
    theirs, expected = run("transformers", tmp_path, **SCENES[scene])
    ours, trace = run("loopwright", tmp_path, **SCENES[scene])
    assert trace == expected
    assert checkpoints(tmp_path / "loopwright") == checkpoints(tmp_path / "transformers")
    assert ours.state.best_metric == pytest.approx(theirs.state.best_metric)
    assert ours.state.best_global_step == theirs.state.best_global_step


@pytest.mark.parametrize("scene", ["steps", "accumulation", "epochs", "plateau", "resume within an epoch", "ratios"])
def test_losses_and_weights_are_those_of_transformers(scene, tmp_path):
    theirs, _ = run("transformers", tmp_path, **SCENES[scene])
    ours, _ = run("loopwright", tmp_path, **SCENES[scene])
    for name, parameter in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], parameter)
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        expected = [line[key] for line in theirs.state.log_history if key in line]
        found = [line[key] for line in ours.state.log_history if key in line]
        assert found == pytest.approx(expected, rel=1e-6)


def random_scene(seed):
    """Draw a cadence; whole pairs of arguments come up over a few dozen draws."""
    draw = random.Random(seed)
    strategy = draw.choice(["steps", "epoch"])
    scene = {
        "train": draw.choice([7, 12, 16]),
        "gradient_accumulation_steps": draw.choice([1, 2, 3]),
        "logging_strategy": draw.choice(["steps", "epoch", "no"]),
        "logging_steps": draw.choice([1, 2, 0.3]),
        "logging_first_step": draw.choice([True, False]),
        "eval_strategy": strategy,
        "eval_steps": draw.choice([1, 2, 3]),
        "save_strategy": draw.choice([strategy, "no", "steps"]),
        "save_total_limit": draw.choice([None, 1, 2]),
        "num_train_epochs": draw.choice([1, 2, 2.5]),
        "max_steps": draw.choice([-1, -1, 5]),
    }
    scene["save_steps"] = scene["eval_steps"] * 2
    if scene["save_strategy"] == strategy and draw.random() < 0.5:
        scene.update(BEST)
    return scene


@pytest.mark.parametrize("seed", range(16))
def test_events_are_those_of_transformers_for_cadences_drawn_at_random(seed, tmp_path):
    scene = random_scene(seed)
    _, expected = run("transformers", tmp_path, **scene)
    _, trace = run("loopwright", tmp_path, **scene)
    assert trace == expected


def checkpoints(directory):
    return sorted(path.name for path in directory.glob("checkpoint-*"))


def test_every_event_of_the_recorder_came_up(tmp_path):
    seen = chain.from_iterable(run("loopwright", tmp_path / scene, **SCENES[scene])[1] for scene in ("accumulation",))
    assert {event for event, *_ in seen} == set(map(str, EVENTS)) - {"on_predict"}
