"""What it costs to fire one event, timed in a worker: what is left when there is no training around it."""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.recipe import check_counts

_CALLS = 20_000
_REPEATS = 7


# What the Trainer's callbacks get besides arguments, state and control.
_KEYWORDS = ("model", "processing_class", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader")


class Plain:
    """The yardstick: a method of an object, called by hand with what an event is called with."""

    num_calls = 0

    def on_event(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Count. An empty method would be no fair listener: Loopwright doesn't call those."""
        self.num_calls += 1


def plain_call() -> float:
    """Return the microseconds of the call alone."""
    plain, args, state, control = Plain(), object(), object(), object()
    context = dict.fromkeys(_KEYWORDS)
    microseconds = _microseconds(lambda: plain.on_event(args, state, control, **context))
    check_counts([plain], _CALLS * _REPEATS)
    return microseconds


def event_call(implementation: str, num_listening: int) -> float:
    """Return the microseconds of an event that `num_listening` callbacks of `implementation` answer."""
    event, counting = IMPLEMENTATIONS[implementation].load().make_event(num_listening)
    microseconds = _microseconds(event)
    check_counts(counting, _CALLS * _REPEATS)
    return microseconds


def _microseconds(call: Callable[[], object]) -> float:
    # The least of several: whatever disturbs so short a thing only adds.
    return min(repeat(call, number=_CALLS, repeat=_REPEATS)) / _CALLS * 1e6
