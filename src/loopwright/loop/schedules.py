"""Make learning-rate schedules: transformers' names, arguments and, bit for bit, its learning rates.

What is returned are torch's own `LambdaLR` objects around `functools.partial` of a function of `schedule_formulas`.
They can be copied and pickled, and their state holds no function and no formula's arguments, so that a `scheduler.pt`
of one library loads in the other, and a run continued with more steps follows the new plan.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import ArgumentError, UnsupportedArgument
from loopwright.loop import schedule_formulas as formulas

logger: Logger = get_logger(__name__)


# The names that people import from transformers; arguments, their order and defaults are those there.


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """Return the schedule that leaves the optimizer's learning rate as it is."""
    return LambdaLR(optimizer, formulas.constant, last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """Return the schedule that rises from 0, then stays."""
    return LambdaLR(optimizer, partial(formulas.constant_after_warmup, num_warmup_steps=num_warmup_steps), last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0, then falls to 0 in a straight line."""
    formula = partial(formulas.linear, num_warmup_steps=num_warmup_steps, num_training_steps=num_training_steps)
    return LambdaLR(optimizer, formula, last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0, then follows `num_cycles` periods of a cosine wave down to 0."""
    formula = partial(
        formulas.cosine, num_warmup_steps=num_warmup_steps, num_training_steps=num_training_steps, num_cycles=num_cycles
    )
    return LambdaLR(optimizer, formula, last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0, then falls to 0 `num_cycles` times, jumping back up in between."""
    formula = partial(
        formulas.cosine_with_restarts,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, formula, last_epoch)


def get_polynomial_decay_schedule_with_warmup(  # noqa: PLR0913 -- transformers' signature
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Return the schedule that rises from 0, then falls to the learning rate `lr_end` as a power.

    Raises:
        ArgumentError: `lr_end` is not below the optimizer's learning rate.
    """
    lr_init = optimizer.defaults["lr"]
    if not lr_init > lr_end:
        raise ArgumentError(f"lr_end={lr_end!r}: expected less than the learning rate, {lr_init!r}")
    formula = partial(
        formulas.polynomial,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        lr_end=lr_end,
        power=power,
        lr_init=lr_init,
    )
    return LambdaLR(optimizer, formula, last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Return the schedule that rises from 0, then falls with the inverse square root of the steps.

    Arguments:
        optimizer: Whose learning rate it sets.
        num_warmup_steps: Updates of warmup.
        timescale: In how many updates the square grows by its first value; by default the length of the warmup, or
            10,000 without one.
        last_epoch: As in torch.

    Raises:
        ArgumentError: `timescale` is not above 0.
    """
    if timescale is None:
        timescale = num_warmup_steps or 10_000
    if timescale <= 0:
        raise ArgumentError(f"timescale={timescale!r}: expected a number above 0")
    formula = partial(formulas.inverse_sqrt, num_warmup_steps=num_warmup_steps, timescale=timescale)
    return LambdaLR(optimizer, formula, last_epoch)


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **kwargs: Any) -> ReduceLROnPlateau:
    """Return torch's `ReduceLROnPlateau`, which lowers the learning rate when a metric no longer improves."""
    return ReduceLROnPlateau(optimizer, **kwargs)


def get_cosine_with_min_lr_schedule_with_warmup(  # noqa: PLR0913 -- transformers' signature
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Return the schedule that rises from 0, then follows a cosine wave down to `min_lr` (or that part of the rate).

    Raises:
        ArgumentError: not exactly one of `min_lr` and `min_lr_rate` is given.
    """
    formula = partial(
        formulas.cosine,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
        min_rate=_min_rate(optimizer, min_lr, min_lr_rate),
    )
    return LambdaLR(optimizer, formula, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(  # noqa: PLR0913 -- transformers' signature
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """Return the schedule above with its warmup beginning at a part `warmup_lr_rate` of the rate, one update earlier.

    Raises:
        ArgumentError: not exactly one of `min_lr` and `min_lr_rate` is given.
    """
    formula = partial(
        formulas.cosine_from_first_step,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        num_cycles=num_cycles,
        min_rate=_min_rate(optimizer, min_lr, min_lr_rate),
        first_rate=warmup_lr_rate,
    )
    return LambdaLR(optimizer, formula, last_epoch)


def get_wsd_schedule(  # noqa: PLR0913 -- transformers' signature
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Return the schedule with three phases: warmup, a stable rate, and a decay to `min_lr_ratio` of it.

    Where `num_stable_steps` is not given, the stable phase is what the two others leave of `num_training_steps`.

    Raises:
        ArgumentError: neither of these two is given, or a shape is none of "linear", "cosine", "1-sqrt".
    """
    _check_shape("warmup_type", warmup_type)
    _check_shape("decay_type", decay_type)
    formula = partial(
        formulas.warmup_stable_decay,
        num_warmup_steps=num_warmup_steps,
        num_stable_steps=_stable_steps(num_warmup_steps, num_decay_steps, num_training_steps, num_stable_steps),
        num_decay_steps=num_decay_steps,
        warmup_type=warmup_type,
        decay_type=decay_type,
        min_rate=min_lr_ratio,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, formula, last_epoch)


def _min_rate(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    if min_lr is None and min_lr_rate is not None:
        return min_lr_rate
    if min_lr is None or min_lr_rate is not None:
        raise ArgumentError(
            f"min_lr={min_lr!r}, min_lr_rate={min_lr_rate!r}: expected exactly one of them, in lr_scheduler_kwargs"
        )
    learning_rate: float = optimizer.defaults["lr"]
    if not learning_rate:
        raise ArgumentError(f"min_lr={min_lr!r}: expected a learning rate above 0 to be a part of; give min_lr_rate")
    return min_lr / learning_rate


def _check_shape(name: str, shape: str) -> None:
    if shape not in {"linear", "cosine", "1-sqrt"}:
        raise ArgumentError(f"{name}={shape!r}: expected 'linear', 'cosine' or '1-sqrt'")


def _stable_steps(warmup: int, decay: int, total: int | None, stable: int | None) -> int:
    if total is None:
        if stable is None:
            raise ArgumentError("num_training_steps=None, num_stable_steps=None: expected at least one of them")
        return stable
    if stable is None:
        stable = total - warmup - decay
        if stable < 0:
            warn_once(
                logger,
                f"warmup_stable_decay: {warmup} warmup and {decay} decay steps are more than the {total} of the "
                "training; the decay begins in its midst",
            )
    elif warmup + stable + decay != total:
        warn_once(
            logger,
            f"warmup_stable_decay: {warmup} warmup, {stable} stable and {decay} decay steps are not the {total} of the "
            "training; any left over go at the lowest rate",
        )
    return stable


# From a name to its schedule.

_SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
    "polynomial": get_polynomial_decay_schedule_with_warmup,
    "constant": get_constant_schedule,
    "constant_with_warmup": get_constant_schedule_with_warmup,
    "inverse_sqrt": get_inverse_sqrt_schedule,
    "reduce_lr_on_plateau": get_reduce_on_plateau_schedule,
    "cosine_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup,
    "cosine_warmup_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    "warmup_stable_decay": get_wsd_schedule,
}
_FROM_THE_PLAN = ("num_warmup_steps", "num_training_steps")
_NOT_FOR_USERS = frozenset({"optimizer", "last_epoch", *_FROM_THE_PLAN})
_TEXTS = frozenset({"warmup_type", "decay_type", "mode", "threshold_mode"})


def build_scheduler(
    name: str,
    optimizer: Optimizer,
    *,
    num_warmup_steps: int | None,
    num_training_steps: int | None,
    specific_kwargs: Mapping[str, Any] | None = None,
) -> LRScheduler:
    """Return the schedule that `args.lr_scheduler_type` names.

    Arguments:
        name: One of transformers' `SchedulerType`, as text or as the enum's member.
        optimizer: Whose learning rate it sets.
        num_warmup_steps: Updates of warmup.
        num_training_steps: Updates in all, warmup included.
        specific_kwargs: `args.lr_scheduler_kwargs`: what this schedule takes besides.

    Raises:
        ArgumentError: an unknown name, a key that this schedule doesn't take, a value that can't be, or something
            missing that it needs.
    """
    name = str(getattr(name, "value", name))
    given = dict(specific_kwargs or {})
    parameters = _parameters(name)
    _check_kwargs(name, given, parameters)
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for key in steps.keys() & parameters.keys():
        if steps[key] is None and parameters[key].default is inspect.Parameter.empty:
            raise ArgumentError(f"{key}=None: expected a whole number, the schedule {name!r} needs it")
        given[key] = steps[key]
    try:
        return _SCHEDULES[name](optimizer, **given)
    except (TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"lr_scheduler_kwargs={specific_kwargs!r}: {name!r} refused them: {error}") from error


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LRScheduler:
    """Return the schedule of that name; `build_scheduler` with transformers' signature."""
    return build_scheduler(
        name,
        optimizer,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        specific_kwargs=scheduler_specific_kwargs,
    )


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    if name == "greedy":
        raise UnsupportedArgument(f"lr_scheduler_type={name!r}: Loopwright doesn't have it; {_names()}")
    if name not in _SCHEDULES:
        raise ArgumentError(f"lr_scheduler_type={name!r}: {_names()}")
    source = ReduceLROnPlateau if name == "reduce_lr_on_plateau" else _SCHEDULES[name]
    return inspect.signature(source).parameters


def _names() -> str:
    return f"expected one of {', '.join(_SCHEDULES)}"


def _check_kwargs(name: str, given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    takes = {key: parameter for key, parameter in parameters.items() if key not in _NOT_FOR_USERS}
    known = ", ".join(takes) or "nothing"
    for key, value in given.items():
        if key not in takes:
            raise ArgumentError(f"lr_scheduler_kwargs has the key {key!r}: {name!r} takes {known}")
        if not _is_possible(key, value, takes[key].default):
            expected = "a text" if key in _TEXTS else "a finite number"
            raise ArgumentError(f"lr_scheduler_kwargs has {key}={value!r}: expected {expected}; {name!r} takes {known}")
    for key, parameter in takes.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise ArgumentError(f"lr_scheduler_kwargs lacks {key!r}: {name!r} needs it, and takes {known}")


def _is_possible(key: str, value: Any, default: Any) -> bool:
    if key in _TEXTS:
        return isinstance(value, str)
    if value is None:
        return default is None
    if key == "min_lr" and isinstance(value, (list, tuple)):  # ReduceLROnPlateau's: one for each parameter group
        return all(_is_number(part) for part in value)
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
