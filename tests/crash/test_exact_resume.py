"""A training that is killed at any instant, and started again by a script that knows nothing, ends bit for bit as one
that was never killed."""

from __future__ import annotations

import random
import signal

import pytest

from tests.crash.scenes import SCENES, differences

KILLS = 5  # of each scene: 105 in all
SOAK_KILLS = 50


def whole_run(forker, scene, directory):
    status, seconds = forker.train(scene, directory)
    assert status == 0, forker.log(directory)
    return forker.outcome(directory), seconds


def kill_and_compare(forker, scene, directory, kills, seed):
    """Kill `scene` until it was killed so often, over as many runs as that takes; compare each run's end."""
    instants = random.Random(f"{seed} {scene}")
    whole, seconds = whole_run(forker, scene, directory / "whole")
    killed, runs, problems = 0, 0, []
    while killed < kills:
        runs += 1
        place = directory / f"killed-{runs}"
        for _ in range(3):  # at most three in a row, so that every run gets somewhere
            status, _ = forker.train(scene, place, signal=signal.SIGKILL, after=instants.uniform(0.05, 1.1 * seconds))
            assert status in (0, -signal.SIGKILL), forker.log(place)
            killed += status != 0
            if forker.is_over(place) or killed == kills:
                break
        if not forker.is_over(place):
            status, _ = forker.train(scene, place)
            assert status == 0, forker.log(place)
        if status:  # killed between its end and leaving its outcome
            continue
        problems += differences(whole, forker.outcome(place))
        assert runs < 10 * kills
    assert not problems, f"{scene}, {killed} kills: {problems[:10]}\n{forker.log(place)}"


@pytest.mark.parametrize("scene", SCENES)
def test_killed_trainings_end_like_one_that_was_never_killed(scene, forker, tmp_path):
    kill_and_compare(forker, scene, tmp_path, KILLS, seed=0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scene", SCENES)
def test_soak(scene, forker, tmp_path):
    kill_and_compare(forker, scene, tmp_path, SOAK_KILLS, seed=1)
