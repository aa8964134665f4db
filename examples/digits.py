"""Train a small convolutional network on scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels.

    python examples/digits.py                     train, or go on where an unfinished run stopped
    python examples/digits.py --fresh             forget what is there and train anew
    python examples/digits.py --report-to all     send the numbers to every tracker that is installed
    python examples/digits.py --help

It shows what a run of one's own needs: a model that returns its loss, two datasets, a metric, and the arguments.
`loopwright demo` runs this very file, which is in the package for that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from loopwright import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments, set_seed

GOAL = 0.97


class DigitNetwork(nn.Module):
    """Two convolutions and two linear layers: about 40,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return logits (batch, 10) for images (batch, 1, 8, 8), and the loss where labels (batch,) are given."""
        logits = self.layers(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def load_data() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return training and held-out examples: dicts of an image (1, 8, 8) in [0, 1] and its digit."""
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, digits, test_size=0.25, random_state=0, stratify=digits)
    train_images, test_images, train_digits, test_digits = parts
    return as_examples(train_images, train_digits), as_examples(test_images, test_digits)


def as_examples(images: np.ndarray, digits: np.ndarray) -> list[dict[str, object]]:
    """Return one dict for each image, its keys being the names of `DigitNetwork.forward`'s parameters."""
    return [{"pixel_values": image, "labels": int(digit)} for image, digit in zip(images, digits, strict=True)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of images whose likeliest digit is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def main(words: Sequence[str] | None = None) -> None:
    """Train, and say what came of it; `words` are the options, by default those of the command line."""
    options = parse_options(words)
    if options.fresh and options.output_dir.exists():
        remove_run(options.output_dir)
    # So small a network is slower on several threads than on one.
    torch.set_num_threads(1)
    set_seed(0)
    train_data, test_data = load_data()
    arguments = TrainingArguments(
        output_dir=str(options.output_dir),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=128,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        logging_steps=20,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=3,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to=options.report_to,
        logging_dir=str(options.output_dir / "events"),
        seed=0,
    )
    trainer = Trainer(
        DigitNetwork(),
        arguments,
        train_dataset=train_data,
        eval_dataset=test_data,
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=4)],
    )
    trainer.train(resume_from_checkpoint="auto")
    summarize(trainer, trainer.evaluate(), len(test_data))


def parse_options(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/digits"), help="where the run lies (%(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="at most so many epochs (%(default)s)")
    parser.add_argument(
        "--report-to",
        nargs="+",
        default=["tensorboard" if find_spec("tensorboard") else "none"],
        help="trackers that get the numbers, by name; or all, or none (%(default)s)",
    )
    parser.add_argument("--fresh", action="store_true", help="forget the run that lies there, and train anew")
    return parser.parse_args(words)


def remove_run(output_dir: Path) -> None:
    """Remove checkpoints, journal and event files of an earlier run of this demo, and nothing else."""
    for directory in (*output_dir.glob("checkpoint-*"), output_dir / "events"):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (*output_dir.glob("journal.*"), *output_dir.glob("delivery.*")):
        file.unlink()


def command(name: str) -> str:
    """Return how to call a command that is installed beside this Python."""
    beside = Path(sys.executable).with_name(name)
    return os.path.relpath(beside) if beside.exists() else name


def summarize(trainer: Trainer, metrics: dict[str, float], num_images: int) -> None:
    """Print a short table: how good it is, why it ended, where everything lies."""
    state = trainer.state
    endings = [decision for decision in trainer.callback_handler.decisions if decision.flag == "should_training_stop"]
    reached = metrics["eval_accuracy"]
    table = Table(title="Handwritten digits", show_header=False, title_justify="left")
    table.add_row("accuracy", f"{reached:.2%} of {num_images} held-out images")
    table.add_row("best epoch", f"step {state.best_global_step} of {state.max_steps}")
    table.add_row("training ended", str(endings[-1]) if endings else f"before: all {state.max_steps} steps were done")
    table.add_row("checkpoints", f"{trainer.args.output_dir}/checkpoint-*")
    table.add_row("best model", str(state.best_model_checkpoint))
    table.add_row("every number", f"{trainer.args.output_dir}/journal.db")
    table.add_row("what happened", f"{command('loopwright')} show {trainer.args.output_dir}")
    if trainer.args.report_to:
        table.add_row("curves", f"{command('tensorboard')} --logdir {trainer.args.logging_dir}")
    table.add_row("again", "the same command goes on from here; --fresh (make demo ARGS=--fresh) trains anew")
    Console().print(table)
    if reached < GOAL:
        raise SystemExit(f"accuracy {reached:.2%} is below the {GOAL:.0%} that this network reaches")


if __name__ == "__main__":
    main()
