"""One optimizer update while it is under way, and how it is saved and taken up again in its middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from loopwright.loop.loss import microbatch_weights

if TYPE_CHECKING:
    from torch import nn

    from loopwright.loop.hooks import TrainingHooks


@dataclass
class Update:
    """A group of micro-batches whose gradients add up to one update.

    Attributes:
        batches: Those still to come.
        num_items: Items in the whole group, where somebody divides by it.
        weights: Each micro-batch's share of the loss, for the whole group.
        scales: Where several processes train, what a loss that is divided by `num_items` is multiplied with.
        settle: Sets `weights` and `scales` once they are needed, after the first forward; None where they stand.
        done: Micro-batches that are in the gradients already.
        loss: The sum of their losses; None before the first.
    """

    batches: list[Any] = field(default_factory=list)
    num_items: torch.Tensor | None = None
    weights: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    settle: Callable[[Update], None] | None = None
    done: int = 0
    loss: torch.Tensor | None = None

    @classmethod
    def of(cls, trainer: TrainingHooks, batches: list[Any], num_items: torch.Tensor | None) -> Update:
        """Return the update that these micro-batches make."""
        return cls(batches, num_items, microbatch_weights(batches, shifted=trainer.labels_are_shifted))

    @property
    def size(self) -> int:
        """Micro-batches in the whole group."""
        return len(self.weights)

    def factors(self) -> tuple[float, float]:
        """Return what the next micro-batch's loss is multiplied with: as a mean, and where it is divided already."""
        if self.settle is not None:
            settle, self.settle = self.settle, None
            settle(self)
        return self.weights[self.done], self.scales[self.done] if self.scales else 1.0

    def add(self, loss: torch.Tensor) -> None:
        """Count one more micro-batch, its share of the loss being `loss`."""
        self.loss = loss if self.loss is None else self.loss + loss
        self.done += 1

    def state(self, model: nn.Module) -> dict[str, Any]:
        """Return what goes into a checkpoint: gradients and sums; the batches to come are the feed's business."""
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        return {
            "gradients": gradients,
            "num_items": self.num_items,
            "weights": self.weights,
            "done": self.done,
            "loss": self.loss,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: nn.Module, device: torch.device) -> Update:
        """Put the gradients back into `model`, and return the update as it was, its batches to be fetched."""
        for name, parameter in model.named_parameters():
            if (gradient := state["gradients"].get(name)) is not None:
                parameter.grad = gradient.to(parameter.device)
        num_items, loss = (
            value if value is None else value.to(device) for value in (state["num_items"], state["loss"])
        )
        return cls(num_items=num_items, weights=state["weights"], done=state["done"], loss=loss)
