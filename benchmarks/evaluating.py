"""An evaluation whose predictions are many, in a worker: its time, and what memory it took at its height.

The bare loop is as a careful engineer writes it: room for all predictions is made once, and each batch copied there.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.process_memory import peak_mb, reset_peak
from benchmarks.recipe import SEED, collate

NUM_CLASSES = 100
_NUM_INPUTS = 16
_BATCH_SIZE = 8  # the default of `TrainingArguments`

Metrics = dict[str, float]


class Rows(Dataset[dict[str, torch.Tensor]]):
    """So many examples, which take no time to make."""

    def __init__(self, length: int) -> None:
        made = torch.Generator().manual_seed(SEED)
        self.inputs = torch.randn(length, _NUM_INPUTS, generator=made)
        self.labels = torch.randint(NUM_CLASSES, (length,), generator=made)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Classifier(nn.Module):
    """One layer, that nearly all of the time is the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(_NUM_INPUTS, NUM_CLASSES)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return loss and logits."""
        logits = self.layer(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction: Any) -> Metrics:
    """Return the share of rows whose greatest logit is the label's."""
    predictions, labels = prediction
    return {"accuracy": float(np.mean(predictions.argmax(-1) == labels))}


def evaluate_once(library: str, num_rows: int) -> dict[str, float]:
    """Evaluate with `library`, one of `LIBRARIES`.

    Returns:
        "seconds", "peak_mb" (by how much the process's memory grew at its height), and the metrics "loss" and
        "accuracy".
    """
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory(prefix="loopwright-benchmark-") as directory:
        evaluate = LIBRARIES[library](Classifier(), Rows(num_rows), directory)
        gc.collect()
        before = reset_peak()
        began = time.perf_counter()
        metrics = evaluate()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "peak_mb": peak_mb() - before, **metrics}


def _bare(model: Classifier, rows: Rows, directory: str) -> Callable[[], Metrics]:
    def evaluate() -> Metrics:
        model.eval()
        predictions = np.empty((len(rows), NUM_CLASSES), np.float32)
        labels = np.empty(len(rows), np.int64)
        losses, begin = torch.zeros(()), 0
        with torch.no_grad():
            for batch in DataLoader(rows, _BATCH_SIZE, collate_fn=collate):
                outputs = model(**batch)
                size = len(batch["labels"])
                losses += outputs["loss"] * size
                predictions[begin : begin + size] = outputs["logits"].numpy()
                labels[begin : begin + size] = batch["labels"].numpy()
                begin += size
        return {"loss": losses.item() / len(rows), **accuracy((predictions, labels))}

    return evaluate


def _trainer_of(library: str) -> Callable[[Classifier, Rows, str], Callable[[], Metrics]]:
    def prepare(model: Classifier, rows: Rows, directory: str) -> Callable[[], Metrics]:
        names = import_module(library)
        args = names.TrainingArguments(output_dir=directory, report_to="none", disable_tqdm=True, use_cpu=True)
        trainer = names.Trainer(
            model=model, args=args, eval_dataset=rows, data_collator=collate, compute_metrics=accuracy
        )

        def evaluate() -> Metrics:
            found = trainer.evaluate()
            return {name: found[f"eval_{name}"] for name in ("loss", "accuracy")}

        return evaluate

    return prepare


def _lightning(model: Classifier, rows: Rows, directory: str) -> Callable[[], Metrics]:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        """Gathers the outputs, as Lightning leaves that to its users."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.gathered: list[tuple[torch.Tensor, torch.Tensor]] = []

        def validation_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> None:
            outputs = self.model(**batch)
            self.log("loss", outputs["loss"], batch_size=len(batch["labels"]))
            self.gathered.append((outputs["logits"], batch["labels"]))

        def on_validation_epoch_end(self) -> None:
            predictions, labels = (torch.cat(parts).numpy() for parts in zip(*self.gathered, strict=True))
            self.gathered.clear()
            self.log_dict(accuracy((predictions, labels)))

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )

    def evaluate() -> Metrics:
        loader = DataLoader(rows, _BATCH_SIZE, collate_fn=collate)
        found = trainer.validate(Module(), loader, verbose=False)[0]
        return {name: found[name] for name in ("loss", "accuracy")}

    return evaluate


LIBRARIES: dict[str, Callable[[Classifier, Rows, str], Callable[[], Metrics]]] = {
    "bare": _bare,
    "loopwright": _trainer_of("loopwright"),
    "transformers": _trainer_of("transformers"),
    "lightning": _lightning,
}
