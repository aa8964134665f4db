"""Evaluation and prediction in several processes: what comes out is what one process gives."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.distributed import evaluations
from tests.distributed.launching import launch, returned

# Those of torchmetrics for three examples, of which no curve can be made.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")

ROUNDED = ("metric_objects_of_numbers",)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return evaluations.all_cases(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"together-{request.param}")
    return returned(evaluations.all_cases, request.param, folder, folder / "out", timeout=280.0)


def assert_same(found, expected, *, is_rounded=False):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_same(found[name], value, is_rounded=is_rounded)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, is_rounded=is_rounded)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
    elif is_rounded:
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected or (found != found and expected != expected)  # NaN


@pytest.mark.parametrize("case", [case.__name__ for case in evaluations.CASES])
def test_every_process_has_what_one_process_has(alone, together, case):
    for found in together:
        assert_same(found[case], alone[case], is_rounded=case in ROUNDED)


def test_one_process_has_what_the_cases_are_about(alone):
    """Were the cases the same for all groupings, or empty, the comparison would say nothing."""
    (predictions, pooled), labels, metrics = alone["counts"][0]
    assert predictions.shape == (7, 6, 3)
    assert (predictions == -100).any()
    assert pooled.shape == (7, 8)
    assert labels.shape == (7, 6)
    assert metrics["test_rows"] == 7
    assert len(alone["batches_one_by_one"][0]) == 4
    assert [len(result["eval_taken"]) for result in alone["batch_by_batch"]] == [8, 12, 4, 2]


def test_measuring_is_the_first_process_s_and_a_step_is_a_batch_of_one_s_own(tmp_path):
    found = returned(evaluations.only_in_several, 2, tmp_path, tmp_path / "out")
    alone = evaluations.wrapped(tmp_path / "alone")
    assert [one["where_things_happen"] for one in found] == [(3, 1, True, 11, 1), (3, 0, False, 11, 1)]

    errors, losses = zip(*(one["failing_metrics"] for one in found), strict=True)
    assert errors[0][:2] == ["ValueError: no such metric"] * 2
    assert errors[1][:2] == ["RankFailed: rank 0: ValueError: no such metric"] * 2
    assert "lambda" in errors[0][2]
    assert errors[1][2].startswith("RankFailed: rank 0: ")
    assert losses[0] == losses[1]

    for one in found:
        assert_same(one["wrapped"], alone)
    assert [one["failing_prediction"] for one in found] == [
        "RankFailed: rank 1: ValueError: a bad batch",
        "ValueError: a bad batch",
    ]


def test_examples_that_count_twice_and_metrics_that_can_not_be_joined_are_named(tmp_path):
    ended = launch(evaluations.refused_or_warned, 2, tmp_path, tmp_path / "out")
    assert [one.status for one in ended] == [0, 0], ended
    assert re.search(r"2 processes have evaluated 8 examples of a dataset of 4", ended[0].output)
    assert "evaluated 8 examples" not in ended[1].output
    assert all("torchmetrics.Metric" in one.returned[1] for one in ended)
