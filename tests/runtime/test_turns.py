"""Threads take shorter turns beside a save, and what the program had set comes back."""

import sys

import pytest

from loopwright.runtime.turns import short_turns


@pytest.fixture(autouse=True)
def interval():
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_turns_are_short_for_a_while():
    sys.setswitchinterval(0.005)
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(0.0005)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_they_come_back_after_an_error_too():
    sys.setswitchinterval(0.005)
    with pytest.raises(ZeroDivisionError), short_turns():
        raise ZeroDivisionError
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_shorter_ones_are_left_alone():
    sys.setswitchinterval(0.0001)
    own = sys.getswitchinterval()
    with short_turns():
        assert sys.getswitchinterval() == own
    assert sys.getswitchinterval() == own


@pytest.mark.parametrize("microseconds", [501, 1009, 2003, 5000, 8191, 20011])
def test_nothing_is_lost_by_rounding(microseconds):
    sys.setswitchinterval(microseconds * 1e-6)
    before = sys.getswitchinterval()
    for _ in range(3):
        with short_turns():
            pass
    assert sys.getswitchinterval() == before


def test_what_the_program_sets_meanwhile_stays():
    sys.setswitchinterval(0.005)
    with short_turns():
        sys.setswitchinterval(0.002)
    assert sys.getswitchinterval() == pytest.approx(0.002)
