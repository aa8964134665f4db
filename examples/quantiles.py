"""Predict how far a disease will have gone in a year, with an interval around it: regression with a loss of one's own.

    python examples/quantiles.py
    python examples/quantiles.py --help

The data are scikit-learn's 442 real patients with diabetes. It shows `compute_loss_func`: the pinball loss, whose
minimum is the quantiles, here the 10 %, 50 % and 90 % ones, so that four patients in five should be in between.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn

from loopwright import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments

QUANTILES = torch.tensor([0.1, 0.5, 0.9])


class QuantileNetwork(nn.Module):
    """One hidden layer; each quantile is the one below and something positive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, len(QUANTILES)))

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return quantiles (batch, 3), in ascending order, for patients (batch, 10)."""
        first, *steps = self.layers(features).unbind(-1)
        return {"logits": torch.stack([first, *map(nn.functional.softplus, steps)], -1).cumsum(-1)}


def pinball_loss(outputs: dict[str, torch.Tensor], labels: torch.Tensor, num_items_in_batch: Any = None) -> Any:
    """Return the mean pinball loss: being below costs q times the difference, being above 1 - q times."""
    above = labels[:, None] - outputs["logits"]
    losses = torch.maximum(QUANTILES * above, (QUANTILES - 1) * above).mean(-1)
    # Of a whole update's patients, where it is made of several batches.
    return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch


def measure(prediction: EvalPrediction) -> dict[str, float]:
    """Return how many patients are in their intervals, and how far the medians are off."""
    low, middle, high = prediction.predictions.T
    actual = prediction.label_ids
    return {
        "coverage": float(((low <= actual) & (actual <= high)).mean()),
        "error": float(np.abs(middle - actual).mean()),
    }


def load_data() -> tuple[list[dict[str, Any]], list[dict[str, Any]], float]:
    """Return training and held-out examples, their measure standardized, and what 1 is in it."""
    features, measures = load_diabetes(return_X_y=True, scaled=False)
    features = (features - features.mean(0)) / features.std(0)
    scale = float(measures.std())
    measures = (measures - measures.mean()) / scale
    rows = [
        {"features": row.astype(np.float32), "labels": float(value)}
        for row, value in zip(features, measures, strict=True)
    ]
    train_data, test_data = train_test_split(rows, test_size=0.3, random_state=0)
    return train_data, test_data, scale


def main() -> None:
    """Train, and say what came out."""
    options = parse_options()
    torch.set_num_threads(1)
    train_data, test_data, scale = load_data()
    trainer = Trainer(
        QuantileNetwork(),
        TrainingArguments(
            output_dir=str(options.output_dir),
            num_train_epochs=60,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            learning_rate=3e-3,
            weight_decay=0.1,
            label_names=["labels"],
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            logging_strategy="epoch",
            report_to="none",
        ),
        train_dataset=train_data,
        eval_dataset=test_data,
        compute_loss_func=pinball_loss,
        compute_metrics=measure,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=8)],
    )
    trainer.train()
    found = trainer.evaluate()
    print(
        f"{found['eval_coverage']:.0%} of {len(test_data)} patients are in their 80 % interval; "
        f"the median is off by {scale * found['eval_error']:.0f} on a scale from 25 to 346"
    )


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quantiles"), help="where it lies (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
