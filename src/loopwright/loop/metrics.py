"""Name, clean, compare, show and save metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loopwright._support.files import write_text_atomically
from loopwright.errors import ArgumentError

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerState


def plain_values(metrics: Any) -> Any:
    """Return `metrics` with NumPy numbers and one-element tensors made plain Python numbers, at any depth."""
    if isinstance(metrics, Mapping):
        return {key: plain_values(value) for key, value in metrics.items()}
    if isinstance(metrics, list | tuple):
        return type(metrics)(plain_values(value) for value in metrics)
    if isinstance(metrics, np.generic) or (isinstance(metrics, np.ndarray | torch.Tensor) and metrics.ndim == 0):
        return metrics.item()
    if isinstance(metrics, torch.Tensor) and metrics.numel() == 1:
        return metrics.item()
    return metrics


def with_prefix(metrics: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return `metrics` with every key beginning with `<prefix>_`, added where it doesn't."""
    return {key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": value for key, value in metrics.items()}


def metric_name(args: TrainingArguments) -> str:
    """Return the full name of `metric_for_best_model`, as it stands among evaluation metrics."""
    name = str(args.metric_for_best_model)
    return name if name.startswith("eval_") else f"eval_{name}"


def watched_metric(args: TrainingArguments, metrics: dict[str, Any]) -> float:
    """Return the value of `metric_for_best_model`.

    Raises:
        ArgumentError: the evaluation didn't measure it; the message lists what it did.
    """
    name = metric_name(args)
    if name not in metrics:
        raise ArgumentError(
            f"metric_for_best_model={args.metric_for_best_model!r}: the evaluation measured no {name!r}, only "
            f"{sorted(metrics)}"
        )
    value: float = metrics[name]
    return value


def update_best(args: TrainingArguments, state: TrainerState, metrics: dict[str, Any]) -> bool:
    """Bring the best metric in `state` up to date; return whether this evaluation is the best so far."""
    if args.metric_for_best_model is None:
        return False
    value = watched_metric(args, metrics)
    if state.best_metric is None:
        state.best_metric = float("-inf") if args.greater_is_better else float("inf")
    is_better = value > state.best_metric if args.greater_is_better else value < state.best_metric
    if is_better:
        state.best_metric = value
        if args.save_strategy != "no":
            state.best_global_step = state.global_step
    return is_better


def format_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return `metrics` for people: run times as h:mm:ss, floats to four decimals."""
    return {key: _format(key, value) for key, value in metrics.items()}


def _format(key: str, value: Any) -> Any:
    if not isinstance(value, int | float):
        return value
    if key.endswith("_runtime"):
        minutes, seconds = divmod(float(value), 60)
        hours, minutes = divmod(int(minutes), 60)
        return f"{hours}:{minutes:02d}:{seconds:05.2f}"
    return round(value, 4) if isinstance(value, float) else value


def metrics_table(split: str, formatted: dict[str, Any]) -> str:
    """Return a table of formatted metrics, a line each under a heading."""
    width = max((len(key) for key in formatted), default=0)
    lines = [f"  {key:<{width}} = {formatted[key]}" for key in sorted(formatted)]
    return "\n".join([f"***** {split} metrics *****", *lines])


def save_results(directory: Path, split: str, metrics: dict[str, float], *, combined: bool) -> None:
    """Write `<split>_results.json` into `directory`; with `combined` add the metrics to `all_results.json` too."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / f"{split}_results.json", metrics)
    if combined:
        everything = directory / "all_results.json"
        before = json.loads(everything.read_text(encoding="utf-8")) if everything.exists() else {}
        _write_json(everything, {**before, **metrics})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(values, indent=4, sort_keys=True) + "\n")
