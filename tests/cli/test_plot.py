"""Plots of characters: what is drawn where, and values that have no place."""

from __future__ import annotations

import math

import pytest

from loopwright.cli.plot import draw


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right():
    *rows, axis = draw([[(0, 4.0), (10, 0.0)]], 40)
    assert rows[0].startswith("    4 ┤⠑")
    lengths = [len(row) for row in rows]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 40
    assert axis.split() == ["0", "10"]


@pytest.mark.parametrize("width", [30, 60, 80, 120])
@pytest.mark.parametrize("scale", [1.0, 1e-12, -1e12])
def test_no_line_is_wider_than_asked(width, scale):
    curve = [(step, scale * math.sin(step)) for step in range(50)]
    assert max(map(len, draw([curve], width))) <= width
    assert max(map(len, draw([curve, curve], width, letters="ab"))) <= width


def test_a_value_that_is_not_finite_is_a_gap_with_a_mark_at_its_step():
    curve = [(0, 1.0), (1, 1.0), (2, math.nan), (3, 1.0), (4, 1.0)]
    *rows, marks, axis = draw([curve], 44)
    assert marks.strip() == "x"
    drawn = next(row for row in rows if any(one > "⠀" for one in row))
    assert drawn[marks.index("x")] == " "
    assert axis.split() == ["0", "4"]


def test_curves_that_meet_are_starred_and_each_has_its_letter():
    rows = draw([[(0, 0.0), (1, 1.0), (2, 2.0)], [(0, 2.0), (1, 1.0), (2, 0.0)]], 60, letters=["a", "b"])
    assert rows[0].rstrip().endswith("a")
    assert rows[0].split("┤")[1].startswith("b")
    assert "*" in "".join(rows)


def test_what_has_no_height_no_width_or_nothing_finite():
    assert draw([[(1, math.nan), (2, math.inf)]], 40) == []
    assert draw([[]], 40) == []
    assert any("⠀" < one <= "⣿" for row in draw([[(5, 1.0)]], 40) for one in row)
    assert any("⠀" < one <= "⣿" for row in draw([[(1, 2.0), (9, 2.0)]], 40) for one in row)
    assert len(draw([[(1, -1.7e308), (2, 1.7e308)]], 40)) == 11
