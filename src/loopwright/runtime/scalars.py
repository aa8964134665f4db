"""Bring a few numbers of every process to all: what each has measured of itself."""

from __future__ import annotations

from collections.abc import Mapping

from loopwright.errors import ArgumentError
from loopwright.runtime.ranks import joined


def gather_scalars(scalars: Mapping[str, float]) -> dict[str, list[float]]:
    """Return each scalar's value on every process, in the order of their ranks; a list of one where there is one.

    All processes have to call it, at the same moment and with the same names: in an event of a callback, say, which
    comes to all of them.

    Arguments:
        scalars: This process's, by name; numbers, or what `float` makes one of.

    Raises:
        ArgumentError: processes have different names; on all of them.
        TypeError: `float` can't make a number of one; on this process, and the others are brought down.
    """
    found = joined().gather_to_all({name: float(value) for name, value in scalars.items()})
    for rank, others in enumerate(found):
        if others.keys() != found[0].keys():
            raise ArgumentError(
                f"gather_scalars: expected the same names on all processes, but rank {rank} has "
                f"{', '.join(sorted(others)) or 'none'}, rank 0 {', '.join(sorted(found[0])) or 'none'}"
            )
    return {name: [others[name] for others in found] for name in found[0]}
