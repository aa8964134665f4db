"""Stepping past torch's wrappers: only while nobody could tell."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import profile

from loopwright.runtime.stepping import Stepper


@pytest.fixture
def weight():
    made = nn.Parameter(torch.ones(3))
    made.grad = torch.full((3,), 0.5)
    return made


@pytest.fixture
def optimizer(weight):
    return torch.optim.SGD([weight], lr=1.0)


@pytest.fixture
def ranges(monkeypatch):
    """Count the ranges that are opened for a profiler, which is what this is about."""
    opened = []
    original = torch.autograd.profiler.record_function

    def record(name, *rest):
        opened.append(name)
        return original(name, *rest)

    monkeypatch.setattr(torch.autograd.profiler, "record_function", record)
    return opened


def test_steps_without_a_range(optimizer, weight, ranges):
    Stepper().step(optimizer)
    assert weight.tolist() == [0.5] * 3
    assert ranges == []


def test_under_a_profiler_with_its_range(optimizer, weight):
    with profile() as profiler:
        Stepper().step(optimizer)
    assert weight.tolist() == [0.5] * 3
    assert "Optimizer.step#SGD.step" in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_hook_is_called_also_one_that_comes_later(optimizer, when):
    stepper, called = Stepper(), []
    stepper.step(optimizer)
    handle = getattr(optimizer, f"register_step_{when}_hook")(lambda *arguments: called.append(when))
    stepper.step(optimizer)
    assert called == [when]
    handle.remove()
    stepper.step(optimizer)
    assert called == [when]


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_a_hook_of_all_optimizers_is_called(optimizer, register):
    called = []
    handle = register(lambda *arguments: called.append(arguments[0]))
    try:
        Stepper().step(optimizer)
    finally:
        handle.remove()
    assert called == [optimizer]


def test_a_step_assigned_to_the_optimizer_is_called(optimizer, weight):
    stepper, called = Stepper(), []
    stepper.step(optimizer)
    original = optimizer.step
    optimizer.step = lambda: called.append(original())
    stepper.step(optimizer)
    assert called == [None]
    assert weight.tolist() == [0.0] * 3


def test_a_step_of_the_class_is_called_also_where_it_wraps_torchs(weight, monkeypatch):
    called, original = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: called.append(original(self)))
    Stepper().step(torch.optim.SGD([weight], lr=1.0))
    assert called == [None]


def test_a_schedule_sees_that_its_step_comes_after(optimizer, weight, ranges):
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Stepper().step(optimizer)
        schedule.step()
    assert weight.tolist() == [0.5] * 3
    assert ranges == []
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_optimizer_of_ones_own(weight, ranges):
    class Halving(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data /= 2

    Stepper().step(Halving([weight]))
    assert weight.tolist() == [0.5] * 3
    assert ranges == []


def test_another_optimizer_is_looked_at_anew(weight):
    stepper = Stepper()
    stepper.step(torch.optim.SGD([weight], lr=1.0))
    stepper.step(torch.optim.Adam([weight], lr=0.25))
    assert weight.tolist() == pytest.approx([0.25] * 3)


def test_what_only_steps_is_enough(weight):
    class Stepping:
        def step(self):
            weight.data.zero_()

    Stepper().step(Stepping())
    assert weight.tolist() == [0.0] * 3


def test_copy_begins_anew(optimizer, weight):
    stepper = Stepper()
    stepper.step(optimizer)
    pickle.loads(pickle.dumps(stepper)).step(optimizer)
    copy.deepcopy(stepper).step(optimizer)
    assert weight.tolist() == [-0.5] * 3
