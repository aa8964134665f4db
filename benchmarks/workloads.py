"""The models and the data that are trained in the benchmarks, and the stopwatch in the models.

A model's forward is the one place that every library passes once per micro-batch, so that is where time is read:
see `Stopwatch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, process_time, thread_time
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import nn
from torch.utils.data import Dataset

_DISTINCT_EXAMPLES = 1024


@dataclass
class Stopwatch:
    """Reads the clocks when the forward passes of the given numbers begin.

    Arguments:
        marks: Numbers of the forward passes, counted from 1, ascending.
        read: What to read in place of the clocks.

    Attributes:
        readings: (wall seconds, CPU seconds of the process, those of this thread) at the marks that were passed.
    """

    marks: list[int] = field(default_factory=list)
    read: Callable[[], Any] = lambda: (perf_counter(), process_time(), thread_time())
    count: int = 0
    readings: list[Any] = field(default_factory=list)
    _next: int = 0

    def __post_init__(self) -> None:
        self._next = self.marks[0] if self.marks else 0

    def tick(self) -> None:
        """Count a forward pass."""
        self.count += 1
        if self.count == self._next:
            self.readings.append(self.read())
            self._next = self.marks[len(self.readings)] if len(self.readings) < len(self.marks) else 0


class TimedModel(nn.Module):
    """A model whose forward takes `inputs` and `labels`, and returns its loss, as all the libraries accept it."""

    def __init__(self) -> None:
        super().__init__()
        self.stopwatch = Stopwatch()

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the mean loss over the batch."""
        self.stopwatch.tick()
        logits = self.logits(inputs)
        return {"loss": F.cross_entropy(logits.flatten(0, -2), labels.flatten())}

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, classes last."""
        raise NotImplementedError


class Perceptron(TimedModel):
    """Layers of one width with ReLU between them, (batch, width) -> (batch, classes)."""

    def __init__(self, width: int, num_layers: int, num_classes: int) -> None:
        super().__init__()
        hidden = [layer for _ in range(num_layers) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, num_classes))

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (batch, classes)."""
        logits: torch.Tensor = self.layers(inputs)
        return logits


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, width) to the same."""
        heads = self.query_key_value(self.norm_attention(hidden)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.project(mixed.transpose(1, 2).flatten(2))
        change: torch.Tensor = self.mlp(self.norm_mlp(hidden))
        return hidden + change


class Gpt(TimedModel):
    """A small decoder, (batch, length) -> (batch, length, vocabulary)."""

    def __init__(self, width: int, num_layers: int, num_heads: int, length: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("index", torch.arange(length), persistent=False)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (batch, length, vocabulary)."""
        hidden = self.blocks(self.tokens(inputs) + self.positions(self.index))
        logits: torch.Tensor = self.head(self.norm(hidden))
        return logits


class Examples(Dataset[dict[str, torch.Tensor]]):
    """As many examples as are asked for, from a store of 1,024, so that a training is one epoch however long."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor, length: int) -> None:
        self.rows = [{"inputs": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index % len(self.rows)]


@dataclass(frozen=True)
class Workload:
    """A model, its data and its batch size. `make_tensors` returns the inputs and labels of all examples."""

    about: str
    batch_size: int
    make_model: Callable[[], TimedModel]
    make_tensors: Callable[[], tuple[torch.Tensor, torch.Tensor]]

    def make_examples(self, num_examples: int) -> Examples:
        """Return `num_examples` examples, the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Examples(*self.make_tensors(), length=num_examples)


def _points(width: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Spread so wide that the gradients' norm is above the limit at first: clipping then has something to do.
    inputs = 4 * torch.randn(_DISTINCT_EXAMPLES, width)
    # Labels that can be learnt, so that equal final losses say something.
    return inputs, inputs[:, :num_classes].argmax(-1)


def _texts(length: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = (torch.randint(vocabulary, (_DISTINCT_EXAMPLES, 1)) + 3 * torch.arange(length + 1)) % vocabulary
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


WORKLOADS: dict[str, Workload] = {
    "tiny": Workload("a step of hardly any work", 1, lambda: Perceptron(4, 0, 2), lambda: _points(4, 2)),
    "mlp1": Workload("MLP, about 1 ms a step", 32, lambda: Perceptron(192, 3, 10), lambda: _points(192, 10)),
    "gpt10": Workload("GPT, about 10 ms a step", 6, lambda: Gpt(96, 2, 4, 64, 256), lambda: _texts(64, 256)),
    "gpt30": Workload("GPT, about 30 ms a step", 10, lambda: Gpt(128, 3, 4, 64, 256), lambda: _texts(64, 256)),
}
