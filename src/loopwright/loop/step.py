"""What the Trainer's hooks around one micro-batch do unless overridden: forward, loss, backward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from loopwright.loop.loss import count_items, extract_loss
from loopwright.runtime.device import empty_cache


def train_on_microbatch(trainer: Any, model: nn.Module, inputs: Any, num_items: torch.Tensor | None) -> torch.Tensor:
    """Do forward and backward of one micro-batch, and return its share of the update's loss, detached."""
    args = trainer.args
    if not model.training:
        model.train()
    inputs = trainer._prepare_inputs(inputs)
    with trainer.compute_loss_context_manager():
        if trainer.compute_loss_takes_num_items:
            loss = trainer.compute_loss(model, inputs, num_items_in_batch=num_items)
        else:  # an override from before that argument existed
            loss = trainer.compute_loss(model, inputs)
    if trainer.current_update is not None and (factors := trainer.current_update.factors()) != (1.0, 1.0):
        loss = loss * factors[divides_by_items(trainer, num_items)]
    trainer.precision.backward(loss)
    if args.torch_empty_cache_steps and trainer.state.global_step % args.torch_empty_cache_steps == 0:
        empty_cache(args.device)
    detached: torch.Tensor = loss.detach()
    return detached


def divides_by_items(trainer: Any, num_items: torch.Tensor | None) -> bool:
    """Return whether the loss is the update's sum divided by its items already, so that shares only need adding."""
    return num_items is not None and (trainer.compute_loss_func is not None or trainer.model_accepts_loss_kwargs)


def default_loss(trainer: Any, model: nn.Module, inputs: Any, num_items: Any, *, return_outputs: bool) -> Any:
    """Return the loss of a batch as the Trainer's parts say, with the model's outputs where asked."""
    labels = None
    if (trainer.label_smoother is not None or trainer.compute_loss_func is not None) and "labels" in inputs:
        inputs = dict(inputs)
        labels = inputs.pop("labels")
    if trainer.model_accepts_loss_kwargs and num_items is not None:
        inputs = {**inputs, "num_items_in_batch": num_items}
    outputs = model(**inputs)
    if trainer.compute_loss_func is not None:
        loss = trainer.compute_loss_func(outputs, labels, num_items_in_batch=num_items)
    elif trainer.label_smoother is not None and labels is not None:
        counted = num_items if trainer.model_accepts_loss_kwargs else None
        loss = trainer.label_smoother(
            outputs, labels, shift_labels=trainer.labels_are_shifted, num_items_in_batch=counted
        )
    else:
        loss = extract_loss(outputs, inputs)
    return (loss, outputs) if return_outputs else loss


def count_items_where_wanted(trainer: Any, batches: list[Any]) -> torch.Tensor | None:
    """Return the number of items in `batches`, where model or loss function divide by it and every batch has labels."""
    if not (trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None):
        return None
    counts = [count_items(batch, shifted=trainer.labels_are_shifted) for batch in batches]
    counted = [count for count in counts if count is not None]
    if not counted or len(counted) < len(counts):
        return None
    return torch.stack(counted).sum().to(trainer.args.device)


def accepts_num_items(compute_loss: Callable[..., Any]) -> bool:
    """Return whether `compute_loss`, which may be an override, takes `num_items_in_batch`."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(compute_loss).parameters
    return "num_items_in_batch" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
