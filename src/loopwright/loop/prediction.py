"""Predict: all of a dataset with time and memory taken, and one batch of it, its loss, logits and labels."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright.data.nesting import map_leaves
from loopwright.loop.loss import extract_logits
from loopwright.loop.report import speed_metrics
from loopwright.loop.step import count_items_where_wanted
from loopwright.runtime.wrapping import inside_data_parallel

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.outputs import EvalLoopOutput


def keys_to_ignore(model: torch.nn.Module) -> list[str]:
    """Return the outputs that are left out where nothing is said of that."""
    config = getattr(model, "config", None)
    return list(getattr(config, "keys_to_ignore_at_inference", ["past_key_values"]))


def model_for_evaluation(model: torch.nn.Module, args: TrainingArguments, *, is_in_train: bool) -> torch.nn.Module:
    """Return `model` where it should be, and outside training in the precision that `*_full_eval` asks for.

    It comes out of `DistributedDataParallel`: processes may have different numbers of batches.
    """
    model = inside_data_parallel(model)
    if is_in_train:
        return model
    if args.fp16_full_eval:
        return model.to(device=args.device, dtype=torch.float16)
    if args.bf16_full_eval:
        return model.to(device=args.device, dtype=torch.bfloat16)
    return model


def predict_timed(
    trainer: Any, loader: Any, description: str, ignore_keys: list[str] | None, prefix: str
) -> tuple[EvalLoopOutput, dict[str, float]]:
    """Return what the Trainer's `evaluation_loop` found, and its metrics with time and memory taken."""
    start = time.time()
    is_evaluation = description == "Evaluation"
    # Predictions that nothing will look at are not kept.
    loss_only = True if is_evaluation and trainer.compute_metrics is None else None
    stage = "eval" if is_evaluation else "test"
    with trainer.memory.stage(stage):
        output: EvalLoopOutput = trainer.evaluation_loop(
            loader,
            description=description,
            prediction_loss_only=loss_only,
            ignore_keys=ignore_keys,
            metric_key_prefix=prefix,
        )
        metrics: dict[str, float] = output.metrics if output.metrics is not None else {}
        num_samples = output.num_samples or 0
        num_steps = math.ceil(num_samples / (trainer.args.eval_batch_size * trainer.ranks.size))
        metrics.update(speed_metrics(prefix, start, num_samples, num_steps))
        trainer.memory.add_to(metrics, stage)
    return output, metrics


def predict_batch(
    trainer: Any, model: torch.nn.Module, inputs: Any, loss_only: bool, ignore_keys: list[str] | None
) -> tuple[torch.Tensor | None, Any, Any]:
    """Return loss, logits and labels of a batch, detached; each None where there is none (or `loss_only`)."""
    names = trainer.label_names
    has_labels = bool(names) and all(inputs.get(name) is not None for name in names)
    asked = inputs.get("return_loss")
    computes_loss = has_labels or (not names and (trainer.can_return_loss if asked is None else bool(asked)))
    inputs = trainer._prepare_inputs(inputs)
    labels = _pick(inputs, names) if has_labels else None
    if ignore_keys is None:
        ignore_keys = trainer.keys_to_ignore
    loss = None
    with torch.no_grad(), trainer.compute_loss_context_manager():
        if computes_loss:
            loss, outputs = _loss_and_outputs(trainer, model, inputs)
        else:
            outputs = model(**inputs)
    if loss_only:
        return loss, None, None
    logits = extract_logits(outputs, ignore_keys, has_loss=computes_loss)
    if isinstance(logits, tuple):
        logits = logits[0] if len(logits) == 1 else logits or None
    return loss, _detached(logits), labels


def _loss_and_outputs(trainer: Any, model: torch.nn.Module, inputs: Any) -> tuple[torch.Tensor, Any]:
    if trainer.compute_loss_takes_num_items:
        num_items = count_items_where_wanted(trainer, [inputs])
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items)
    else:
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
    loss = _detached(loss)
    return loss if loss.ndim == 0 else loss.mean(), outputs


def _pick(inputs: Mapping[str, Any], names: list[str]) -> Any:
    return _detached(inputs[names[0]] if len(names) == 1 else tuple(inputs[name] for name in names))


def _detached(nested: Any) -> Any:
    if type(nested) is torch.Tensor:  # nearly always, and made where no gradients are
        return nested.detach() if nested.requires_grad else nested
    return map_leaves(nested, lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf)
