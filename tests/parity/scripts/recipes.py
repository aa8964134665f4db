"""What transformers' pages "Trainer features" and "Subclassing Trainer methods" tell people to do, on a small model."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments  # isort: skip -- the line that is changed

draws = torch.Generator().manual_seed(0)
rows = [
    {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids > 10).sum() % 2, "length": len(ids)}
    for ids in (torch.randint(20, (8,), generator=draws) for _ in range(48))
]


def make_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=2, **sizes, **dropout))


def smoothed_loss(outputs, labels, num_items_in_batch):
    """A loss function of one's own, over all items of the accumulated update."""
    return F.cross_entropy(outputs["logits"], labels, reduction="sum", label_smoothing=0.1) / num_items_in_batch


def best_class(logits, labels):
    """Keep of a batch what the metric needs."""
    return logits.argmax(dim=-1)


def accuracy(evaluated):
    predictions, labels = evaluated
    return {"accuracy": float(np.mean(predictions == labels)), "perplexity": float(np.exp(np.mean(predictions)))}


class Told(TrainerCallback):
    """Notes what happens."""

    def __init__(self):
        self.events = []

    def on_epoch_end(self, args, state, control, **kwargs):
        self.events.append(("epoch", state.global_step))

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.events.append(("evaluate", state.global_step, sorted(metrics)))


class Weighted(Trainer):
    """A loss, a loader and a log line of one's own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 2.0]))
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=self._train_batch_size, collate_fn=self.data_collator)

    def log(self, logs, *args, **kwargs):
        super().log({**logs, "twice_the_epoch": 2 * (self.state.epoch or 0)}, *args, **kwargs)


told = Told()
common = {
    "report_to": "none",
    "num_train_epochs": 2,
    "logging_steps": 2,
    "learning_rate": 1e-2,
    "eval_strategy": "epoch",
}
first = Trainer(
    model=make_model(),
    args=TrainingArguments(
        output_dir="features",
        gradient_accumulation_steps=2,
        eval_on_start=True,
        eval_accumulation_steps=2,
        save_strategy="best",
        metric_for_best_model="perplexity",
        greater_is_better=False,
        load_best_model_at_end=True,
        logging_strategy="steps",
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        dataloader_prefetch_factor=2,
        **common,
    ),
    train_dataset=rows,
    eval_dataset=rows[:10],
    compute_loss_func=smoothed_loss,
    compute_metrics=accuracy,
    preprocess_logits_for_metrics=best_class,
    callbacks=[told, EarlyStoppingCallback(early_stopping_patience=5)],
)
first.train()

second = Weighted(
    model=make_model(),
    args=TrainingArguments(output_dir="subclass", save_strategy="epoch", **common),
    train_dataset=rows,
    eval_dataset={"seen": rows[:10], "rest": rows[10:]},
)
second.train()
third = Weighted(
    model=make_model(),
    args=TrainingArguments(output_dir="subclass", save_strategy="epoch", **(common | {"num_train_epochs": 3})),
    train_dataset=rows,
    eval_dataset={"seen": rows[:10], "rest": rows[10:]},
)
third.train(resume_from_checkpoint=True)

# Noise, and the order of batches of one length, each library draws in its own way.
fourth = Trainer(
    model=make_model(),
    args=TrainingArguments(
        output_dir="drawn", train_sampling_strategy="group_by_length", neftune_noise_alpha=5, **common
    ),
    train_dataset=rows,
    eval_dataset=rows[:10],
)
fourth.train()
