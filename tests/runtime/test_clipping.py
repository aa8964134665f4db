"""Clipping: torch's own results, bit for bit, with fewer passes over the gradients."""

import pytest
import torch
from torch import nn

from loopwright.runtime.clipping import Clipper


def parameters(*kinds):
    """Return a parameter of each (shape, dtype), with a gradient."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in kinds]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape).to(parameter.dtype)
    return made


def clipped(made, max_norm, clip):
    norm = clip(made, max_norm)
    return norm, [parameter.grad for parameter in made]


KINDS = {
    "of one format": [((31, 7), torch.float32), ((5,), torch.float32)],
    "half": [((31, 7), torch.bfloat16), ((5,), torch.bfloat16)],
    "of two formats": [((31, 7), torch.float32), ((5,), torch.float64)],
}


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 14.0, 15.0, 1e6])
def test_norm_and_gradients_are_those_of_torch(kinds, max_norm):
    norm, gradients = clipped(parameters(*kinds), max_norm, lambda made, limit: Clipper(made).clip(limit))
    expected_norm, expected = clipped(parameters(*kinds), max_norm, nn.utils.clip_grad_norm_)
    assert torch.equal(norm, expected_norm)
    assert norm.dtype == expected_norm.dtype
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_as_in_torch(value):
    made, others = parameters(*KINDS["of one format"]), parameters(*KINDS["of one format"])
    made[0].grad[0, 0] = others[0].grad[0, 0] = value
    norm, expected = Clipper(made).clip(1.0), nn.utils.clip_grad_norm_(others, 1.0)
    assert torch.equal(torch.isnan(norm), torch.isnan(expected))
    for one, other in zip(made, others, strict=True):
        assert torch.equal(one.grad.nan_to_num(7.0), other.grad.nan_to_num(7.0))


def test_parameters_without_a_gradient_are_left_out():
    made = parameters(*KINDS["of one format"])
    made[1].grad = None
    norm = Clipper(made).clip(1.0)
    assert made[1].grad is None
    assert torch.linalg.vector_norm(made[0].grad) == pytest.approx(1.0, rel=1e-4)
    assert norm > 1.0


def test_no_gradient_at_all_is_a_norm_of_zero():
    assert Clipper([nn.Parameter(torch.zeros(3))]).clip(1.0) == 0.0
    assert Clipper([]).clip(1.0) == 0.0


def test_within_the_limit_nothing_is_written():
    made = parameters(*KINDS["of one format"])
    versions = [parameter.grad._version for parameter in made]
    Clipper(made).clip(1e6)
    assert [parameter.grad._version for parameter in made] == versions
    Clipper(made).clip(1.0)
    assert [parameter.grad._version for parameter in made] != versions


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_a_gradient_that_itself_can_be_differentiated_is_clipped():
    weight = nn.Parameter(torch.ones(3))
    (weight**3).sum().backward(create_graph=True)
    Clipper([weight]).clip(1.0)
    assert torch.linalg.vector_norm(weight.grad).item() == pytest.approx(1.0, rel=1e-4)
    weight.grad = None  # it refers to the weight, and the weight to it
