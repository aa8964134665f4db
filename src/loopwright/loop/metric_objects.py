"""Take a metric that is updated batch by batch, as `torchmetrics` makes them, for `compute_metrics`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from loopwright.data.nesting import map_leaves
from loopwright.errors import UnsupportedArgument
from loopwright.loop.assembling import in_turn

if TYPE_CHECKING:
    from loopwright.runtime.ranks import Ranks


def is_metric_object(thing: Any) -> bool:
    """Return whether `thing` is updated with batches and asked for its value at the end."""
    return all(callable(getattr(thing, name, None)) for name in ("update", "compute", "reset"))


def check_mergeable(thing: Any, num_processes: int) -> None:
    """Refuse a metric object of which several processes can't make one.

    Raises:
        UnsupportedArgument: naming it.
    """
    if num_processes > 1 and is_metric_object(thing) and not _parts(thing):
        raise UnsupportedArgument(
            f"compute_metrics is a {type(thing).__name__}: what {num_processes} processes have counted can't be put "
            "together; expected a torchmetrics.Metric, a MetricCollection or a function"
        )


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
        self._merged: list[tuple[Any, list[_State]]] = []

    def update(self, logits: Any, labels: Any) -> None:
        """Count a batch."""
        self.metric.update(logits, labels)
        self.was_updated = True

    def merge(self, ranks: Ranks) -> None:
        """Let `values` on the first process count the batches of all, in the order of one process.

        Not torchmetrics' own way, which is for processes with as many batches each: one that had none sends states of
        another type and shape, or no message at all where others wait for some.

        Raises:
            UnsupportedArgument: the metric isn't of torchmetrics.
        """
        check_mergeable(self.metric, ranks.size)
        parts = _parts(self.metric)
        found = ranks.gather([_state_of(part) for part in parts])
        for number, part in enumerate(parts if found is not None else ()):
            states = [states[number] for states in found or () if states[number].num_updates]
            self.was_updated = self.was_updated or bool(states)
            self._merged.append((part, states))

    def values(self) -> dict[str, Any]:
        """Return the values by name: a collection's own names, else the class's in snake case.

        A vector, of a value for each class say, becomes one value for each element, numbered from 0. None of it where
        there was no batch.
        """
        if not self.was_updated:
            return {}
        with contextlib.ExitStack() as stack:
            for part, states in self._merged:
                stack.enter_context(_having(part, states))
            found = self.metric.compute()
        named = found if isinstance(found, Mapping) else {_snake_case(type(self.metric).__name__): found}
        return {name: value for key, nested in named.items() for name, value in _one_by_one(str(key), nested)}


def _one_by_one(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return [(f"{name}_{number}", element.item()) for number, element in enumerate(value.flatten())]
    return [(name, value)]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class _State(NamedTuple):
    """What a metric has counted, on the CPU: tensors, or lists of an entry for each batch."""

    num_updates: int
    values: dict[str, Any]


def _parts(metric: Any) -> list[Any]:
    """Return the metrics of torchmetrics in `metric` that have states of their own."""
    modules: list[Any] = list(metric.modules()) if isinstance(metric, torch.nn.Module) else []
    for module in modules:
        if hasattr(module, "_compute_groups_create_state_ref"):
            module.values(copy_state=False)  # those of a collection that count the same count once, until asked for
    return [module for module in modules if getattr(module, "_reductions", None)]


def _state_of(part: Any) -> _State:
    values = {name: map_leaves(getattr(part, name), _on_cpu) for name in part._reductions}
    return _State(part._update_count, values)


def _on_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if _is_tensor(leaf) else leaf


@contextlib.contextmanager
def _having(part: Any, states: list[_State]) -> Iterator[None]:
    """Let a metric compute from the states of all processes that have counted a batch, and ask no other for its own."""
    names = (*part._reductions, "_update_count", "_to_sync", "_computed")
    before = {name: getattr(part, name) for name in names}
    try:
        part._to_sync, part._computed = False, None
        if states:
            part._update_count = sum(state.num_updates for state in states)
            for name, reduce in part._reductions.items():
                value = _joined([state.values[name] for state in states], reduce)
                setattr(part, name, map_leaves(value, lambda leaf: leaf.to(part.device) if _is_tensor(leaf) else leaf))
        yield
    finally:
        for name, value in before.items():
            setattr(part, name, value)


def _joined(values: list[Any], reduce: Any) -> Any:
    """Return one state of several, as torchmetrics joins them; a list in the order of one process."""
    if len(values) == 1:
        return values[0]
    value = torch.stack(values) if _is_tensor(values[0]) else list(in_turn(values))
    return reduce(value) if reduce is not None and len(value) else value


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
