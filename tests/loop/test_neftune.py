"""Embeddings are noisy in training and nowhere else, with transformers' draws, and exactly so after a resume."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch import nn

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.errors import ArgumentError

ALPHA = 5.0


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.head = nn.Linear(6, 2)
        self.embedded = []

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, labels=None):
        embedded = self.table(input_ids)
        self.embedded.append((embedded.detach() - self.table.weight.detach()[input_ids], self.training))
        logits = self.head(embedded.mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x, labels=None):
        return {"loss": self.linear(x).mean()}


class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


ARGUMENTS = {
    "per_device_train_batch_size": 4, "num_train_epochs": 2, "logging_steps": 1, "eval_strategy": "epoch",
    "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


def build(directory, kind=Trainer, arguments=TrainingArguments, model=None, callbacks=(), **options):
    draws = torch.Generator().manual_seed(0)
    data = [{"input_ids": torch.randint(0, 7, (8,), generator=draws), "labels": index % 2} for index in range(16)]
    torch.manual_seed(0)
    args = arguments(str(directory), **(ARGUMENTS | {"neftune_noise_alpha": ALPHA} | options))
    model = Model() if model is None else model
    return kind(model, args, train_dataset=data, eval_dataset=data[:4], callbacks=list(callbacks))


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_noise_fills_its_bounds_in_training_and_is_nowhere_else(tmp_path):
    trainer = build(tmp_path)
    trainer.train()
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    bound = ALPHA / math.sqrt(8 * 6)
    noise = torch.cat([embedded for embedded, is_training in trainer.model.embedded if is_training])
    assert 0.98 * bound < noise.abs().max() <= bound + 1e-6
    assert noise.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert abs(noise.mean().item()) < 0.05 * bound
    quiet = [embedded for embedded, is_training in trainer.model.embedded if not is_training]
    assert len(quiet) > 2
    assert not any(embedded.any() for embedded in quiet)


class Reseed(transformers.TrainerCallback):
    """Puts the stream to the same place at every step: the loaders of transformers draw from it too, ours don't."""

    def on_step_begin(self, args, state, control, **kwargs):
        torch.manual_seed(state.global_step)


def test_losses_are_those_of_transformers(tmp_path):
    (ours := build(tmp_path, callbacks=[Reseed()])).train()
    (theirs := build(tmp_path, transformers.Trainer, transformers.TrainingArguments, callbacks=[Reseed()])).train()
    (without := build(tmp_path, callbacks=[Reseed()], neftune_noise_alpha=None)).train()
    assert losses(ours) == losses(theirs) != losses(without)
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_resumed_run_draws_what_an_unbroken_one_draws(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5}
    whole = build(tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", callbacks=[Stop()], **options).train()
    resumed = build(tmp_path / "parts", **options)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)


@pytest.mark.parametrize("fails", [False, True])
def test_hook_is_gone_after_training_also_one_that_raised(fails, tmp_path):
    trainer = build(tmp_path, callbacks=[Stop()] if fails else [], save_strategy="steps", save_steps=2)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    else:
        trainer.train()
    assert not trainer.model.table._forward_hooks
    assert trainer.model.state_dict().keys() == Model().state_dict().keys()


def test_model_without_embeddings_is_refused_before_anything_begins(tmp_path):
    trainer = build(tmp_path, model=Silent(), remove_unused_columns=False)
    with pytest.raises(ArgumentError, match=r"^neftune_noise_alpha=5\.0: expected a model with get_input_embeddings"):
        trainer.train()
    assert not trainer.state.log_history
