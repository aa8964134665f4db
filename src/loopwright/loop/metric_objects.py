"""Take a metric that is updated batch by batch, as `torchmetrics` makes them, for `compute_metrics`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch


def is_metric_object(thing: Any) -> bool:
    """Return whether `thing` is updated with batches and asked for its value at the end."""
    return all(callable(getattr(thing, name, None)) for name in ("update", "compute", "reset"))


class BatchwiseMetric:
    """A metric in one evaluation: it gets each batch where the batch is, and outputs need not be kept for it.

    Arguments:
        metric: A `torchmetrics.Metric`, a `MetricCollection`, or what has their three methods.
        device: Where the batches are.
    """

    def __init__(self, metric: Any, device: torch.device) -> None:
        self.metric: Any = metric
        if isinstance(metric, torch.nn.Module):
            metric.to(device)
        self.metric.reset()
        self.was_updated: bool = False

    def update(self, logits: Any, labels: Any) -> None:
        """Count a batch."""
        self.metric.update(logits, labels)
        self.was_updated = True

    def values(self) -> dict[str, Any]:
        """Return the values by name: a collection's own names, else the class's in snake case.

        A vector, of a value for each class say, becomes one value for each element, numbered from 0. None of it where
        there was no batch.
        """
        if not self.was_updated:
            return {}
        found = self.metric.compute()
        named = found if isinstance(found, Mapping) else {_snake_case(type(self.metric).__name__): found}
        return {name: value for key, nested in named.items() for name, value in _one_by_one(str(key), nested)}


def _one_by_one(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return [(f"{name}_{number}", element.item()) for number, element in enumerate(value.flatten())]
    return [(name, value)]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
