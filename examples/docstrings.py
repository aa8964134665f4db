"""Tell from a paragraph of documentation whether it is NumPy's, scikit-learn's or PyTorch's: a text classifier.

    python examples/docstrings.py
    python examples/docstrings.py --help

The texts are the docstrings of the libraries themselves, a few thousand paragraphs. It shows a tokenizer and a
collator of one's own, batches of texts of about the same length, and `evaluate` on data that was held out.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loopwright import EvalPrediction, Trainer, TrainingArguments

LIBRARIES = {
    "numpy": ["numpy", "numpy.linalg", "numpy.fft", "numpy.random"],
    "scikit-learn": ["sklearn.cluster", "sklearn.linear_model", "sklearn.metrics", "sklearn.preprocessing"],
    "torch": ["torch", "torch.nn", "torch.nn.functional", "torch.optim"],
}
NUM_WORDS = 4000
PADDING = 0
Example = dict[str, Any]


class BagOfWords(nn.Module):
    """The mean of the words' embeddings, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_WORDS, 48, padding_idx=PADDING)
        self.layers = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, len(LIBRARIES)))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return logits (batch, libraries) for words (batch, length), and the loss where labels (batch,) are given."""
        lengths = (input_ids != PADDING).sum(1, keepdim=True)
        logits = self.layers(self.words(input_ids).sum(1) / lengths)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def paragraphs(library: str) -> list[list[str]]:
    """Return the words of each paragraph in a library's docstrings, without the names that would give it away."""
    found: dict[str, None] = {}
    for module in LIBRARIES[library]:
        for name, member in inspect.getmembers(importlib.import_module(module)):
            if not name.startswith("_") and (inspect.isclass(member) or callable(member)):
                found |= dict.fromkeys(re.split(r"\n\s*\n", inspect.getdoc(member) or ""))
    hidden = {"numpy", "np", "sklearn", "scikit", "torch", "pytorch"}
    texts = [[word for word in re.findall(r"[a-z]+", text.lower()) if word not in hidden] for text in found]
    return [words for words in texts if len(words) >= 8]


def load_data() -> tuple[list[Example], list[Example]]:
    """Return training and held-out examples: dicts of a paragraph's words, as numbers, and its library's."""
    texts = [(words, label) for label, library in enumerate(LIBRARIES) for words in paragraphs(library)]
    random.Random(0).shuffle(texts)
    held_out = len(texts) // 5
    counted = Counter(word for words, _ in texts[held_out:] for word in words)
    # 0 fills up, 1 is for words that are too rare.
    numbers = {word: number for number, (word, _) in enumerate(counted.most_common(NUM_WORDS - 2), 2)}
    examples = [
        {"input_ids": [numbers.get(word, 1) for word in words[:100]], "labels": label} for words, label in texts
    ]
    return examples[held_out:], examples[:held_out]


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Return a batch, its texts filled up to the longest."""
    texts = [torch.tensor(example["input_ids"]) for example in examples]
    return {
        "input_ids": nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=PADDING),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of paragraphs whose likeliest library is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def main() -> None:
    """Train, and say how good it is."""
    options = parse_options()
    torch.set_num_threads(1)  # so small a network is slower on several
    train_data, test_data = load_data()
    trainer = Trainer(
        BagOfWords(),
        TrainingArguments(
            output_dir=str(options.output_dir),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            train_sampling_strategy="group_by_length",
            learning_rate=5e-3,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to="none",
        ),
        collate,
        train_dataset=train_data,
        eval_dataset=test_data,
        compute_metrics=accuracy,
    )
    trainer.train()
    reached = trainer.evaluate()["eval_accuracy"]
    print(f"of {len(test_data):,} paragraphs that it had not seen, {reached:.1%} were told right")


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/docstrings"), help="where it lies (%(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="how often to go through the texts (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
