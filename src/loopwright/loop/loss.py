"""Get the loss out of a model, and weigh micro-batches so that an update's loss is the mean over its items.

Models of transformers that take `num_items_in_batch` divide by it themselves. Any other model returns the mean over
its own micro-batch; the mean over the update is then the mean of those weighted by their items, which differs from
their plain average as soon as one micro-batch is shorter or has more padding. An item is a label that counts (not
-100); where labels can't be counted, an example.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from loopwright.data.loaders import find_batch_size
from loopwright.errors import DataError

IGNORED_LABEL = -100


def takes_item_count(model: nn.Module) -> bool:
    """Return whether the model's forward divides its loss by a `num_items_in_batch` given to it.

    Its attribute `accepts_loss_kwargs` decides where it has one; otherwise a parameter of that name does, or the
    `**kwargs` of a transformers model, which reach its `loss_function`.
    """
    declared = getattr(model, "accepts_loss_kwargs", None)
    if declared is not None:
        return bool(declared)
    parameters = inspect.signature(model.forward).parameters
    if "num_items_in_batch" in parameters:
        return True
    forwards_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return forwards_all and hasattr(model, "loss_function")


def shifts_labels(model: nn.Module) -> bool:
    """Return whether the model is a decoder that predicts label i+1 at i, so that the first label never counts."""
    is_encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    # Asked of the function, not of `loss_type`: some models (GPT-2) leave that None and shift all the same.
    name = getattr(getattr(model, "loss_function", None), "__name__", None)
    return name == "ForCausalLMLoss" and not is_encoder_decoder


def count_items(batch: Any, *, shifted: bool) -> torch.Tensor | None:
    """Return the number of labels in `batch` that count, a zero-dimensional tensor; None where there are none."""
    if not isinstance(batch, Mapping):
        return None
    labels = batch.get("shift_labels")
    if labels is None:
        labels = batch.get("labels")
        if isinstance(labels, torch.Tensor) and shifted:
            labels = labels[..., 1:]
    return labels.ne(IGNORED_LABEL).sum() if isinstance(labels, torch.Tensor) else None


def microbatch_weights(batches: Sequence[Any], *, shifted: bool) -> list[float]:
    """Return what share of the update's items each micro-batch holds.

    Exactly 1/n each where all hold the same, so that the arithmetic is that of a plain average.
    """
    count = len(batches)
    if count == 1:
        return [1.0]
    items = [_num_items(batch, shifted=shifted) for batch in batches]
    total = sum(items)
    if total == 0 or len(set(items)) == 1:
        return [1.0 / count] * count
    return [number / total for number in items]


def _num_items(batch: Any, *, shifted: bool) -> int:
    counted = count_items(batch, shifted=shifted)
    return int(counted) if counted is not None else find_batch_size(batch) or 1


def extract_loss(outputs: Any, inputs: Any) -> torch.Tensor:
    """Return the loss from what a model's forward returned: a mapping, an object with `.loss`, or a tuple.

    Raises:
        DataError: there is none.
    """
    loss: torch.Tensor | None
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    elif isinstance(outputs, torch.Tensor):
        loss = outputs if outputs.ndim == 0 else None
    elif hasattr(outputs, "loss"):
        loss = outputs.loss
    else:
        loss = outputs[0] if len(outputs) else None
    if loss is None:
        found = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        given = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise DataError(
            f"the model returned no loss, only {found}; it was given {given}. Return a loss when labels are given, "
            "or pass compute_loss_func, or override Trainer.compute_loss"
        )
    return loss


def extract_logits(outputs: Any, ignore_keys: Sequence[str], *, has_loss: bool) -> Any:
    """Return a model's outputs without its loss and without `ignore_keys`: a tuple, or the bare tensor."""
    if isinstance(outputs, Mapping):
        skipped = {*ignore_keys, "loss"} if has_loss else set(ignore_keys)
        return tuple(value for key, value in outputs.items() if key not in skipped)
    if isinstance(outputs, tuple | list):
        return tuple(outputs[1:]) if has_loss else tuple(outputs)
    if hasattr(outputs, "logits"):
        return (outputs.logits,)
    return () if has_loss else outputs


class LabelSmoother:
    """Cross-entropy against labels of which `epsilon` is spread evenly over all classes (Szegedy et al., 2016).

    Arguments:
        epsilon: The share spread over all classes.
    """

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        *,
        shift_labels: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the smoothed mean loss of logits (..., classes) against labels (...), those of -100 left out."""
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
        if shift_labels:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        log_probabilities = torch.log_softmax(logits, dim=-1)
        counts = labels.ne(IGNORED_LABEL)
        picked = log_probabilities.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        on_label = -(picked * counts).sum()
        on_all = -(log_probabilities.sum(-1, dtype=torch.float32) * counts).sum() / logits.shape[-1]
        num_items = counts.sum() if num_items_in_batch is None else num_items_in_batch
        loss: torch.Tensor = ((1 - self.epsilon) * on_label + self.epsilon * on_all) / num_items
        return loss
