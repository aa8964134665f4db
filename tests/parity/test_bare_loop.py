"""Weights and logged losses must be those of a loop written by hand on plain torch, bit for bit."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import nn

from loopwright import Trainer, TrainingArguments, set_seed

BATCH = 4


class Network(nn.Module):
    """With dropout, so that the random stream counts too."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(16), nn.Linear(16, 3))

    def forward(self, x, labels):
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def make_model():
    torch.manual_seed(7)
    return Network()


def make_data(count=30):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 5, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return [{"x": row, "labels": label} for row, label in zip(x, labels, strict=True)]


def bare_loop(*, epochs=2, accumulation=1, max_grad_norm=1.0, weight_decay=0.0, bf16=False, warmup=0, logging_steps=2):
    """Train as the Trainer should with its defaults, and return the model and the logged mean losses."""
    model, data = make_model(), make_data()
    set_seed(42)
    updates_per_epoch = math.ceil(math.ceil(len(data) / BATCH) / accumulation)
    total = epochs * updates_per_epoch
    decayed = [p for n, p in model.named_parameters() if not n.endswith("bias") and "layers.3" not in n]
    others = [p for n, p in model.named_parameters() if n.endswith("bias") or "layers.3" in n]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def factor(step):
        return step / max(1, warmup) if step < warmup else max(0.0, (total - step) / max(1, total - warmup))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    step, window, logged = 0, 0.0, []
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(42 + epoch)).tolist()
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        for start in range(0, len(batches), accumulation):
            group = batches[start : start + accumulation]
            sizes = [len(batch) for batch in group]
            even = len(set(sizes)) == 1
            total_loss = None
            for batch, size in zip(group, sizes, strict=True):
                x = torch.stack([data[index]["x"] for index in batch])
                labels = torch.stack([data[index]["labels"] for index in batch])
                context = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
                with context:
                    loss = model(x, labels)["loss"]
                if len(group) > 1:
                    loss = loss * (1 / len(group) if even else size / sum(sizes))
                loss.backward()
                total_loss = loss.detach() if total_loss is None else total_loss + loss.detach()
            if max_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            window += total_loss.item()
            if step % logging_steps == 0:
                logged.append(window / logging_steps)
                window = 0.0
    return model, logged


CASES = {
    "defaults": {},
    "accumulation": {"accumulation": 2},
    "accumulation with short groups": {"accumulation": 3, "epochs": 3},
    "one update an epoch": {"accumulation": 8, "logging_steps": 1},
    "no clipping": {"max_grad_norm": 0.0},
    "weight decay": {"weight_decay": 0.1},
    "warm-up": {"warmup": 5, "logging_steps": 1},
    "bf16": {"bf16": True},
    "bf16 with accumulation": {"bf16": True, "accumulation": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_a_bare_loop_bit_for_bit(case, tmp_path):
    options = CASES[case]
    expected, expected_losses = bare_loop(**options)
    trainer = Trainer(
        make_model(),
        TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=BATCH,
            num_train_epochs=options.get("epochs", 2),
            gradient_accumulation_steps=options.get("accumulation", 1),
            max_grad_norm=options.get("max_grad_norm", 1.0),
            weight_decay=options.get("weight_decay", 0.0),
            warmup_steps=options.get("warmup", 0),
            bf16=options.get("bf16", False),
            logging_steps=options.get("logging_steps", 2),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=make_data(),
    )
    trainer.train()
    for name, parameter in expected.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], parameter), name
    assert [line["loss"] for line in trainer.state.log_history if "loss" in line] == expected_losses


def test_the_bare_loop_notices_a_difference(tmp_path):
    """The comparison above can fail: another clipping norm gives other weights."""
    first, _ = bare_loop()
    second, _ = bare_loop(max_grad_norm=0.1)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
