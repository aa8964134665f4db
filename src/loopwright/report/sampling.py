"""Choose which points of a long curve are drawn, so that neither peaks nor gaps are lost.

    the curve in stretches of equal length ── of each: its lowest, its highest, its first NaN or infinity

A peak of a single step is drawn as high as it is; what lies between the lowest and the highest of a stretch is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_POINTS = 2_000


def choose_points(values: Sequence[float], max_points: int = MAX_POINTS) -> list[int]:
    """Return the places in `values` that are drawn, in order: all where there are few, the extremes where not.

    Arguments:
        values: Of a curve; NaN and the infinities are gaps.
        max_points: How many finite values are drawn at most; the first and the last are always among them.
    """
    number = len(values)
    if number <= max_points:
        return list(range(number))
    num_stretches = max(max_points // 2 - 1, 1)
    chosen = {0, number - 1}
    for stretch in range(num_stretches):
        begin, end = stretch * number // num_stretches, (stretch + 1) * number // num_stretches
        finite = [place for place in range(begin, end) if math.isfinite(values[place])]
        if finite:
            chosen.add(min(finite, key=values.__getitem__))
            chosen.add(max(finite, key=values.__getitem__))
        if len(finite) < end - begin:
            chosen.add(next(place for place in range(begin, end) if not math.isfinite(values[place])))
    return sorted(chosen)
