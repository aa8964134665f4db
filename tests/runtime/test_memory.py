"""Measures of memory are real, have transformers' names, and are not there unless asked for."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.runtime import memory
from loopwright.runtime.memory import MemoryMeter

CPU = torch.device("cpu")
MEGABYTE = 2**20


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x, labels=None):
        return {"loss": self.linear(x).mean(), "logits": self.linear(x)}


class Take(TrainerCallback):
    """Takes 64 MB for a moment, and keeps 32."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.kept = torch.ones(32 * MEGABYTE // 4)
            torch.ones(64 * MEGABYTE // 4)


ARGUMENTS = {"max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}


def build(directory, kind=Trainer, arguments=TrainingArguments, callbacks=(), **options):
    data = [{"x": torch.zeros(3), "labels": torch.tensor(0.0)}] * 16
    args = arguments(str(directory), **ARGUMENTS, **options)
    return kind(Model(), args, train_dataset=data, eval_dataset=data, callbacks=list(callbacks))


def measures(metrics):
    return {name: value for name, value in metrics.items() if "_mem_" in name}


def test_training_tells_what_it_keeps_and_how_far_up_it_was(tmp_path):
    build(tmp_path).train()  # the first training of a process loads what later ones find loaded
    trainer = build(tmp_path, callbacks=[take := Take()], skip_memory_metrics=False)
    found = measures(trainer.train().metrics)
    assert 30 * MEGABYTE < found["train_mem_cpu_alloc_delta"] < 60 * MEGABYTE
    assert 55 * MEGABYTE < found["train_mem_cpu_peaked_delta"] < 90 * MEGABYTE
    assert found == measures(trainer.state.log_history[-1])
    assert found["before_init_mem_cpu"] > 50 * MEGABYTE
    assert take.kept is not None


def test_names_are_those_of_transformers_in_every_stage(tmp_path):
    ours = build(tmp_path, skip_memory_metrics=False)
    theirs = build(tmp_path, transformers.Trainer, transformers.TrainingArguments, skip_memory_metrics=False)
    for run in (
        lambda trainer: trainer.train().metrics,
        lambda trainer: trainer.evaluate(),
        lambda trainer: trainer.predict(trainer.eval_dataset).metrics,
    ):
        assert measures(run(ours)).keys() == measures(run(theirs)).keys() != set()


def test_evaluation_inside_training_is_part_of_it(tmp_path):
    trainer = build(tmp_path, skip_memory_metrics=False, eval_strategy="steps", eval_steps=1)
    trainer.train()
    *lines, closing = trainer.state.log_history
    assert not any(measures(line) for line in lines)
    assert "train_mem_cpu_alloc_delta" in closing


def test_training_after_one_that_raised_is_measured(tmp_path):
    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer = build(tmp_path, callbacks=[Fail], skip_memory_metrics=False)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Fail)
    assert "train_mem_cpu_alloc_delta" in trainer.train().metrics


def test_nothing_is_looked_at_unless_asked_for(tmp_path, monkeypatch):
    def fail():
        raise AssertionError("looked at")

    monkeypatch.setattr(memory, "_of_process", fail)
    monkeypatch.setattr(memory.gc, "collect", fail)
    trainer = build(tmp_path)
    assert not measures(trainer.train().metrics | trainer.evaluate())


def test_peak_that_can_not_be_set_back_is_told_only_where_it_is_certain(monkeypatch):
    monkeypatch.setattr(MemoryMeter, "_reset_peaks", lambda self: False)
    told = []
    for peak in (100, 120):
        seen = iter([(60, 100), (70, peak)])
        monkeypatch.setattr(memory, "_of_process", lambda seen=seen: next(seen))
        meter, metrics = MemoryMeter(CPU, is_on=True), {}
        with meter.stage("train"):
            meter.add_to(metrics, "train")
        told.append(metrics)
    assert told == [
        {"train_mem_cpu_alloc_delta": 10},
        {"train_mem_cpu_alloc_delta": 10, "train_mem_cpu_peaked_delta": 50},
    ]


def test_without_proc_nothing_is_told_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "nowhere")
    meter, metrics = MemoryMeter(CPU, is_on=True), {}
    with meter.stage("train"):
        meter.add_to(metrics, "train")
    assert metrics == {}
