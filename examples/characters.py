"""Learn to write like Python's language reference, a character at a time: a small language model.

    python examples/characters.py
    python examples/characters.py --help

The text is what `help()` shows, which comes with Python. It shows a stream of data without a length that a checkpoint
can go on with, a callback that lets the model write while it trains, and perplexity as a metric.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from loopwright import Trainer, TrainerCallback, TrainingArguments

TEXT = "\n".join(topics.values())
CHARACTERS = sorted(set(TEXT))
LENGTH = 64
_NUMBERS = {character: number for number, character in enumerate(CHARACTERS)}


def as_numbers(text: str) -> torch.Tensor:
    """Return the number of each character."""
    return torch.tensor([_NUMBERS[character] for character in text])


class Writer(nn.Module):
    """A recurrent network that says which character comes next."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(CHARACTERS), width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.next = nn.Linear(width, len(CHARACTERS))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return logits (batch, length, characters) for text (batch, length), and the loss where labels are given."""
        logits = self.next(self.memory(self.characters(input_ids))[0])
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}

    @torch.no_grad()
    def write(self, begin: str, length: int, generator: torch.Generator) -> str:
        """Return `begin` with so many characters after it."""
        text, memory, given = begin, None, as_numbers(begin)[None]
        for _ in range(length):
            found, memory = self.memory(self.characters(given), memory)
            chances = (self.next(found[:, -1]) / 0.7).softmax(-1)
            given = torch.multinomial(chances, 1, generator=generator)
            text += CHARACTERS[int(given)]
        return text


class Pieces(IterableDataset[dict[str, torch.Tensor]]):
    """Pieces of the text from places drawn at random, without end. Where it is, its state says."""

    def __init__(self, text: torch.Tensor, seed: int) -> None:
        self.text = text
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            first = int(torch.randint(len(self.text) - LENGTH, (1,), generator=self.generator))
            piece = self.text[first : first + LENGTH + 1]
            yield {"input_ids": piece[:-1], "labels": piece[1:]}

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        self.generator.set_state(state["generator"])


class ShowWriting(TrainerCallback):
    """Lets the model write a line at each evaluation, and adds the perplexity to its metrics."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write."""
        model, metrics = kwargs["model"], kwargs["metrics"]
        metrics["eval_perplexity"] = math.exp(metrics["eval_loss"])
        line = model.write("The ", 80, torch.Generator().manual_seed(0))  # its own: training draws what it would draw
        tqdm.write(f"step {state.global_step}, perplexity {metrics['eval_perplexity']:.1f}: {line!r}")  # beside the bar


def main() -> None:
    """Train, and go on where an earlier run was interrupted."""
    options = parse_options()
    torch.set_num_threads(1)
    text = as_numbers(TEXT)
    held_out = len(text) // 20
    ends = [text[first : first + LENGTH + 1] for first in range(0, held_out - LENGTH - 1, LENGTH * 4)]
    trainer = Trainer(
        Writer(),
        TrainingArguments(
            output_dir=str(options.output_dir),
            max_steps=options.steps,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            prediction_loss_only=True,
            learning_rate=5e-3,
            lr_scheduler_type="cosine",
            eval_strategy="steps",
            eval_steps=0.25,
            save_steps=0.25,
            save_total_limit=1,
            logging_steps=0.1,
            report_to="none",
        ),
        train_dataset=Pieces(text[held_out:], seed=0),
        eval_dataset=[{"input_ids": piece[:-1], "labels": piece[1:]} for piece in ends],
        callbacks=[ShowWriting],
    )
    trainer.train(resume_from_checkpoint="auto")


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/characters"), help="where it lies (%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="how many steps in all (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
