"""Step an optimizer without what torch adds to each step for a profiler that isn't running.

torch wraps the `step` of each of its optimizers: around it opens a range for the profiler, and hooks are called. Where
neither is there, the range alone takes some 30 µs, a fifth of what a fused AdamW takes for a small network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd import profiler
from torch.optim import Optimizer, optimizer

# Private names, so that a torch without one of them is a torch whose optimizers are simply asked.
_WRAP = getattr(Optimizer, "profile_hook_step", None)
_WRAPPERS_CODE = None if _WRAP is None else _WRAP(lambda optimizer: None).__code__
_HOOKS_OF_ALL = [getattr(optimizer, f"_global_optimizer_{when}_hooks", {0: None}) for when in ("pre", "post")]


class Stepper:
    """Calls `optimizer.step()`, past torch's own wrappers of it while nobody needs them."""

    __slots__ = ("_assigned", "_optimizer", "_unwrapped")

    def __init__(self) -> None:
        self._optimizer: Optimizer | None = None
        self._assigned: Any = None
        self._unwrapped: Callable[[Any], Any] | None = None

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights."""
        # Looked up at each step: whoever assigns a `step` to the optimizer, or adds a hook, is to be heard.
        if optimizer is not self._optimizer or optimizer.__dict__.get("step") is not self._assigned:
            self._look_at(optimizer)
        unwrapped = self._unwrapped
        if unwrapped is None or profiler._is_profiler_enabled or _has_hooks(optimizer):
            optimizer.step()
            return
        unwrapped(optimizer)
        optimizer._opt_called = True  # type: ignore[attr-defined]  # by which a schedule sees that it comes after

    def __reduce__(self) -> tuple[Any, ...]:
        # What is kept is found again, and torch's inner functions can't be pickled.
        return Stepper, ()

    def _look_at(self, optimizer: Optimizer) -> None:
        self._optimizer, self._assigned = optimizer, optimizer.__dict__.get("step")
        wrapped = type(optimizer).step
        is_torchs = _WRAPPERS_CODE is not None and getattr(wrapped, "__code__", None) is _WRAPPERS_CODE
        self._unwrapped = wrapped.__wrapped__ if is_torchs and _only_noted(self._assigned, wrapped) else None  # type: ignore[attr-defined]


def _only_noted(assigned: Any, wrapped: Any) -> bool:
    """Return whether the optimizer's own attribute `step` does no more than note for a schedule that it was called."""
    if assigned is None:
        return True
    return getattr(assigned, "_wrapped_by_lr_sched", False) and getattr(assigned, "__wrapped__", None) is wrapped


def _has_hooks(optimizer: Any) -> bool:
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _HOOKS_OF_ALL[0] or _HOOKS_OF_ALL[1])
