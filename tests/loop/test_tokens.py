"""Tokens seen are those that transformers counts, and rates are of this attempt's own work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from loopwright import Trainer, TrainerCallback, TrainingArguments


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"loss": nn.functional.cross_entropy(self.table(input_ids).mean(1), labels)}


class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def rows(*, masked, count=14):
    draws = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        tokens = torch.randint(0, 5, (4,), generator=draws)
        found.append({"input_ids": tokens, "labels": torch.tensor(index % 2)})
        if masked:
            found[-1]["attention_mask"] = tokens.ne(0).long()
    return found


ARGUMENTS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "logging_steps": 1,
    "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


def build(directory, *, masked=True, processing_class=None, callbacks=(), kind=Trainer, **arguments):
    torch.manual_seed(0)
    args = TrainingArguments(str(directory), **(ARGUMENTS | arguments))
    return kind(
        Embedding(), args, train_dataset=rows(masked=masked), processing_class=processing_class,
        callbacks=list(callbacks),
    )  # fmt: skip


def seen(trainer):
    return [line["num_input_tokens_seen"] for line in trainer.state.log_history]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("counted", ["all", "non_padding"])
def test_tokens_are_those_of_transformers(counted, masked, tmp_path):
    padded = SimpleNamespace(pad_token_id=0, save_pretrained=lambda directory: None)
    ours = build(tmp_path, masked=masked, processing_class=padded, include_num_input_tokens_seen=counted)
    ours.train()
    args = transformers.TrainingArguments(str(tmp_path), **ARGUMENTS, include_num_input_tokens_seen=counted)
    torch.manual_seed(0)
    theirs = transformers.Trainer(
        Embedding(), args, train_dataset=rows(masked=masked), processing_class=padded
    )  # fmt: skip
    theirs.train()
    assert seen(ours) == seen(theirs)
    assert (seen(ours)[-1] < 2 * 14 * 4) is (counted == "non_padding")
    shared = {"num_input_tokens_seen", "train_tokens_per_second", "train_runtime"}
    for mine, other in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        assert shared & mine.keys() == shared & other.keys()


def test_tokens_count_where_training_step_is_overridden(tmp_path):
    class Own(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**inputs)["loss"] / 2
            loss.backward()
            return loss.detach()

    trainer = build(tmp_path, kind=Own, include_num_input_tokens_seen="all")
    trainer.train()
    assert trainer.state.num_input_tokens_seen == 2 * 14 * 4


def test_rates_after_a_resume_are_of_what_this_attempt_did(tmp_path):
    options = {"include_num_input_tokens_seen": "all", "save_strategy": "steps", "save_steps": 6}
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, callbacks=[Stop()], **options).train()
    resumed = build(tmp_path, **options)
    metrics = resumed.train(resume_from_checkpoint=True).metrics
    assert resumed.state.num_input_tokens_seen == 2 * 14 * 4
    # Two of the eight updates were left: of four examples, and of the last two.
    *_, newest, _ = resumed.state.log_history
    tokens = newest["train_tokens_per_second"] * newest["train_runtime"]
    assert tokens == pytest.approx(6 * 4, rel=0.1)
    assert metrics["train_steps_per_second"] * metrics["train_runtime"] == pytest.approx(2, rel=0.1)
    assert metrics["train_samples_per_second"] * metrics["train_runtime"] == pytest.approx(6, rel=0.2)
