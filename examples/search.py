"""Search with Optuna for the learning rate and the width of a small network on scikit-learn's handwritten digits.

    python examples/search.py                  8 trials, or as many more in the study that lies there
    python examples/search.py --trials 3       so many
    python examples/search.py --help

Trials that are behind when they evaluate are pruned. The study lies in a file, so a search that was interrupted goes
on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from loopwright import BestRun, EvalPrediction, PrinterCallback, Trainer, TrainingArguments


class DigitNetwork(nn.Module):
    """One hidden layer, as wide as the trial says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return logits (batch, 10) for images (batch, 64), and the loss where labels (batch,) are given."""
        logits = self.layers(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def make_model(trial: Any = None) -> DigitNetwork:
    """Return a new network; what it is built of is suggested here, as it is no training argument."""
    return DigitNetwork(32 if trial is None else trial.suggest_int("width", 8, 64, log=True))


def space(trial: Any) -> dict[str, Any]:
    """Return the training arguments to try."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "constant"]),
    }


def load_data() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return training and held-out examples: dicts of an image (64,) in [0, 1] and its digit."""
    images, digits = load_digits(return_X_y=True)
    parts = train_test_split((images / 16).astype(np.float32), digits, test_size=0.25, random_state=0, stratify=digits)
    train_images, test_images, train_digits, test_digits = parts
    return as_examples(train_images, train_digits), as_examples(test_images, test_digits)


def as_examples(images: np.ndarray, digits: np.ndarray) -> list[dict[str, object]]:
    """Return one dict for each image, its keys being the names of `DigitNetwork.forward`'s parameters."""
    return [{"pixel_values": image, "labels": int(digit)} for image, digit in zip(images, digits, strict=True)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of images whose likeliest digit is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def main() -> None:
    """Search, then train with what was best."""
    options = parse_options()
    torch.set_num_threads(1)  # so small a network is slower on several
    train_data, test_data = load_data()
    trainer = Trainer(
        model_init=make_model,
        args=TrainingArguments(
            output_dir=str(options.output_dir),
            num_train_epochs=4,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=450,
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=0.25,
            report_to=options.report_to,
            disable_tqdm=True,
        ),
        train_dataset=train_data,
        eval_dataset=test_data,
        compute_metrics=accuracy,
    )
    trainer.remove_callback(PrinterCallback)  # a line for each trial will do
    best = trainer.hyperparameter_search(
        space,
        lambda metrics: metrics["eval_accuracy"],
        n_trials=options.trials,
        direction="maximize",
        storage=f"sqlite:///{options.output_dir / 'study.db'}",
        study_name="digits",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    if isinstance(best, BestRun):  # a list of them where there are several objectives
        train_with(trainer, best)


def train_with(trainer: Trainer, best: BestRun) -> None:
    """Train once more with what was best, and say how good it is."""
    for name, value in best.hyperparameters.items():
        if name != "width":
            setattr(trainer.args, name, value)
    trainer.model_init = lambda: DigitNetwork(best.hyperparameters["width"])
    trainer.train()
    reached = trainer.evaluate()["eval_accuracy"]
    print(f"best: trial {best.run_id} with {best.objective:.2%}, {best.hyperparameters}")
    print(f"trained again with these: {reached:.2%} of the held-out images are right")


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/search"), help="where it all lies (%(default)s)")
    parser.add_argument("--trials", type=int, default=8, help="how many trials to make (%(default)s)")
    parser.add_argument("--report-to", nargs="+", default=["none"], help="trackers, by name; or all (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
