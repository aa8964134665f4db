"""Draw curves with characters: one curve in braille dots, several with a letter each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Points = Sequence[tuple[float, float]]

_HEIGHT = 10
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row within a character
_EMPTY, _GAP = 0x2800, "x"


def draw(curves: Sequence[Points], width: int, letters: Sequence[str] = ()) -> list[str]:
    """Return the lines of a plot, at most `width` characters each; none where nothing in it is finite.

    A value that is not finite has no height: an x below the plot stands at its step.

    Arguments:
        curves: Steps and values of each.
        width: Characters there are.
        letters: What each is drawn with, "*" where they meet. Without them there is one curve, drawn in dots.
    """
    finite = [(x, y) for curve in curves for x, y in curve if math.isfinite(y)]
    if not finite:
        return []
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    first, last = (choose(x for curve in curves for x, _ in curve) for choose in (min, max))
    shares = [row / (_HEIGHT - 1) for row in range(_HEIGHT)]
    shown = [row % 3 == 0 and (high > low or row == 6) for row in range(_HEIGHT)]
    labels = [f"{high * (1 - share) + low * share:.4g}" if shown[row] else "" for row, share in enumerate(shares)]
    margin = max(map(len, labels))
    columns = max(width - margin - 2, 10)
    dots = (1, 1) if letters else (2, 4)
    size = (columns * dots[0], _HEIGHT * dots[1])

    def place(x: float, y: float) -> tuple[int, int]:
        across = (x - first) / (last - first) if last > first else 0.0
        # Halves first: the difference of two finite numbers may be none.
        up = (y / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
        return round(across * (size[0] - 1)), round((1 - up) * (size[1] - 1))

    cells = [_joined([place(x, y) if math.isfinite(y) else None for x, y in curve]) for curve in curves]
    rows = _letters(cells, letters, columns) if letters else _braille(cells[0], columns)
    lines = [f"{label:>{margin}} ┤{text}".rstrip() for label, text in zip(labels, rows, strict=True)]
    gaps = {place(x, low)[0] // dots[0] for curve in curves for x, y in curve if not math.isfinite(y)}
    if gaps:
        marks = "".join(_GAP if column in gaps else " " for column in range(columns))
        lines.append(f"{'':{margin}}  {marks}".rstrip())
    begin, end = f"{first:g}", f"{last:g}"
    return [*lines, f"{'':{margin}}  {begin}{end:>{max(columns - len(begin), len(end) + 1)}}"]


def _joined(points: Sequence[tuple[int, int] | None]) -> set[tuple[int, int]]:
    """Return the dots of the points and of the lines between them; where a value is not finite there is a gap."""
    found = {point for point in points if point is not None}
    for begin, end in pairwise(points):
        if begin is None or end is None:
            continue
        across, down = end[0] - begin[0], end[1] - begin[1]
        num_dots = max(abs(across), abs(down))
        found |= {
            (begin[0] + round(across * dot / num_dots), begin[1] + round(down * dot / num_dots))
            for dot in range(1, num_dots)
        }
    return found


def _braille(cells: set[tuple[int, int]], columns: int) -> list[str]:
    grid = [[_EMPTY] * columns for _ in range(_HEIGHT)]
    for x, y in cells:
        grid[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    return ["".join(map(chr, row)).replace(chr(_EMPTY), " ") for row in grid]


def _letters(cells: Sequence[set[tuple[int, int]]], letters: Sequence[str], columns: int) -> list[str]:
    grid = [[" "] * columns for _ in range(_HEIGHT)]
    for letter, ones in zip(letters, cells, strict=True):
        for x, y in ones:
            grid[y][x] = letter if grid[y][x] == " " else "*"
    return ["".join(row) for row in grid]
