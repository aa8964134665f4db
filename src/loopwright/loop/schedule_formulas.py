"""The formulas of the learning-rate schedules.

Each gives the factor that the learning rate is multiplied with at update number `step`, counted from 0. All but the
constant one begin with a warmup of W updates (`num_warmup_steps`), out of T in all (`num_training_steps`); behind it,
`progress` goes from 0 at update W to 1 at update T. The order of their operations is part of what they promise, the
very numbers of transformers: another order rounds differently.
"""

from __future__ import annotations

import math


def constant(step: int) -> float:
    """1, always."""
    return 1.0


def constant_after_warmup(step: int, *, num_warmup_steps: int) -> float:
    """`step / W` during warmup, then 1."""
    return _rise(step, num_warmup_steps) if step < num_warmup_steps else 1.0


def linear(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    """`step / W` during warmup, then `1 - progress`, not below 0."""
    if step < num_warmup_steps:
        return _rise(step, num_warmup_steps)
    return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))


def cosine(
    step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float, min_rate: float = 0.0
) -> float:
    """`step / W` during warmup, then a cosine wave of `num_cycles` periods between 1 and `min_rate`.

    `min_rate + (1 - min_rate) * (1 + cos(2 pi num_cycles progress)) / 2`: half a period only falls.
    """
    if step < num_warmup_steps:
        return _rise(step, num_warmup_steps)
    progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
    return _floored(_wave(num_cycles, progress), min_rate)


def cosine_from_first_step(  # noqa: PLR0913 -- the numbers that the formula has
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float,
    min_rate: float,
    first_rate: float | None,
) -> float:
    """As `cosine`, with both phases one update ahead, so that no update is done at rate 0.

    Warmup is `(step + 1) / W`, or, given a `first_rate`, the straight line from there at update 0 to 1 at W - 1. Then
    comes the wave with `progress = (step - W + 1) / (T - W)`.
    """
    if step < num_warmup_steps:
        if first_rate is None:
            return (step + 1.0) / max(1.0, num_warmup_steps)
        return first_rate + (1.0 - first_rate) * step / max(1, num_warmup_steps - 1)
    progress = (step - num_warmup_steps + 1.0) / max(1.0, num_training_steps - num_warmup_steps)
    return _floored(_wave(num_cycles, progress), min_rate)


def cosine_with_restarts(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float) -> float:
    """`step / W` during warmup, then `num_cycles` times the fall from 1 to 0 along half a cosine wave; 0 from T on."""
    if step < num_warmup_steps:
        return _rise(step, num_warmup_steps)
    progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(num_cycles) * progress) % 1.0))))


def polynomial(  # noqa: PLR0913 -- the numbers that the formula has
    step: int, *, num_warmup_steps: int, num_training_steps: int, lr_end: float, power: float, lr_init: float
) -> float:
    """`step / W` during warmup, then from `lr_init` to `lr_end` as `(1 - progress) ** power`; `lr_end` after T.

    These two are learning rates, not factors, so the result is divided by `lr_init`.
    """
    if step < num_warmup_steps:
        return _rise(step, num_warmup_steps)
    decay_steps = num_training_steps - num_warmup_steps
    if step > num_training_steps or decay_steps == 0:
        return lr_end / lr_init
    remaining = 1 - (step - num_warmup_steps) / decay_steps
    return float(((lr_init - lr_end) * remaining**power + lr_end) / lr_init)


def inverse_sqrt(step: int, *, num_warmup_steps: int, timescale: float) -> float:
    """`step / W` during warmup, then `1 / sqrt(1 + (step - W) / timescale)`."""
    if step < num_warmup_steps:
        return _rise(step, num_warmup_steps)
    shift = timescale - num_warmup_steps
    return 1.0 / math.sqrt((step + shift) / timescale)


def warmup_stable_decay(  # noqa: PLR0913 -- the numbers that the formula has
    step: int,
    *,
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    warmup_type: str,
    decay_type: str,
    min_rate: float,
    num_cycles: float,
) -> float:
    """Up from `min_rate` along `warmup_type`, 1 for `num_stable_steps`, down to `min_rate` along `decay_type`.

    The shapes, for `x` from 0 to 1 in the phase: "linear" `x` up and `1 - x` down; "cosine" half a cosine wave
    (`num_cycles` periods of it on the way down); "1-sqrt" `1 - sqrt(1 - x)` up and `1 - sqrt(x)` down.
    """
    if step < num_warmup_steps:
        return _floored(_up(warmup_type, _rise(step, num_warmup_steps)), min_rate)
    decayed = step - num_warmup_steps - num_stable_steps
    if decayed < 0:
        return 1.0
    if decayed < num_decay_steps:
        return _floored(_down(decay_type, decayed / max(1, num_decay_steps), num_cycles), min_rate)
    return min_rate


def _rise(step: int, num_warmup_steps: int) -> float:
    return step / max(1, num_warmup_steps)


def _wave(num_cycles: float, progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress))


def _floored(factor: float, min_rate: float) -> float:
    return max(0.0, factor * (1.0 - min_rate) + min_rate)


def _up(shape: str, progress: float) -> float:
    if shape == "linear":
        return progress
    if shape == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * progress))
    return 1.0 - math.sqrt(1.0 - progress)


def _down(shape: str, progress: float, num_cycles: float) -> float:
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return _wave(num_cycles, progress)
    return 1.0 - math.sqrt(progress)
