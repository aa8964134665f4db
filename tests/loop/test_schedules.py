"""Schedules: learning rates equal to transformers' bit for bit, states that go both ways, errors that name the key."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import logging
import pickle
from typing import Any

import pytest
import torch
import transformers.optimization as theirs
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import SchedulerType

from loopwright._support import log
from loopwright.errors import ArgumentError, UnsupportedArgument
from loopwright.loop import schedules as ours
from loopwright.loop.schedules import build_scheduler

LEARNING_RATES = (3e-4, 0.1)
PLANS = [(0, 1), (0, 10), (1, 10), (3, 10), (7, 23), (10, 10), (15, 10), (0, 0), (100, 1000)]
FORMULAS: dict[str, list[dict[str, Any]]] = {
    "linear": [{}],
    "cosine": [{}, {"num_cycles": 1.5}, {"num_cycles": 3}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}, {"num_cycles": 2.5}],
    "polynomial": [{}, {"lr_end": 1e-5, "power": 2}, {"power": 0.5}],
    "constant": [{}],
    "constant_with_warmup": [{}],
    "inverse_sqrt": [{}, {"timescale": 50}, {"timescale": 2}],
    "cosine_with_min_lr": [{"min_lr": 1e-5}, {"min_lr_rate": 0.1, "num_cycles": 1.25}, {"min_lr": 0.0}],
    "cosine_warmup_with_min_lr": [
        {"min_lr": 1e-5},
        {"min_lr_rate": 0.3, "warmup_lr_rate": 0.07},
        {"min_lr_rate": 0.3, "warmup_lr_rate": 0, "num_cycles": 2},
    ],
    "warmup_stable_decay": [
        {"num_decay_steps": 4},
        {"num_decay_steps": 0},
        {"num_decay_steps": 4, "warmup_type": "cosine", "decay_type": "linear", "min_lr_ratio": 0.1},
        {"num_decay_steps": 5, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.03},
        {"num_decay_steps": 3, "num_stable_steps": 2, "num_cycles": 1.5},
    ],
}
CASES = [(name, kwargs) for name, variants in FORMULAS.items() for kwargs in variants]


@pytest.fixture(autouse=True)
def _said_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_said", set())


def make_optimizer(learning_rate: float = 0.1) -> torch.optim.Optimizer:
    """Return an optimizer with two groups, the second with a learning rate of its own."""
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": learning_rate / 3}]
    return torch.optim.SGD(groups, lr=learning_rate)


def rates(scheduler: Any, num_steps: int) -> list[list[float]]:
    """Return the learning rates of that many updates, exactly."""
    course = []
    for _ in range(num_steps):
        course.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return course


def make_theirs(name: str, optimizer: torch.optim.Optimizer, warmup: int, total: int, kwargs: dict[str, Any]) -> Any:
    return theirs.get_scheduler(name, optimizer, warmup, total, dict(kwargs))


def test_every_name_of_transformers_is_made_or_refused_by_name() -> None:
    assert {member.value for member in SchedulerType} == {*FORMULAS, "reduce_lr_on_plateau", "greedy"}
    with pytest.raises(UnsupportedArgument, match="lr_scheduler_type='greedy'"):
        build_scheduler(SchedulerType.GREEDY, make_optimizer(), num_warmup_steps=0, num_training_steps=1)
    with pytest.raises(ArgumentError, match="lr_scheduler_type='cosin': expected one of linear, cosine, "):
        build_scheduler("cosin", make_optimizer(), num_warmup_steps=0, num_training_steps=1)


@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")  # transformers', not ours
@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=str)
def test_learning_rates_equal_those_of_transformers_bit_for_bit(name: str, kwargs: dict[str, Any]) -> None:
    # Where warmup fills the training, transformers' polynomial divides by zero; the next test has that case.
    plans = [plan for plan in PLANS if name != "polynomial" or plan[0] != plan[1]]
    for learning_rate, (warmup, total) in itertools.product(LEARNING_RATES, plans):
        scheduler = build_scheduler(
            SchedulerType(name),
            make_optimizer(learning_rate),
            num_warmup_steps=warmup,
            num_training_steps=total,
            specific_kwargs=kwargs,
        )
        other = make_theirs(name, make_optimizer(learning_rate), warmup, total, kwargs)
        assert type(scheduler) is LambdaLR
        assert rates(scheduler, total + 5) == rates(other, total + 5), (learning_rate, warmup, total)


def test_polynomial_stays_at_its_end_where_warmup_fills_the_training() -> None:
    scheduler = build_scheduler(
        "polynomial",
        make_optimizer(),
        num_warmup_steps=3,
        num_training_steps=3,
        specific_kwargs={"lr_end": 0.01},
    )
    assert [round(first, 9) for first, _ in rates(scheduler, 5)][3:] == [0.01, 0.01]


def test_constant_ignores_the_plan_and_needs_none() -> None:
    scheduler = build_scheduler("constant", make_optimizer(), num_warmup_steps=None, num_training_steps=None)
    assert rates(scheduler, 3) == [[0.1, 0.1 / 3]] * 3


@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=str)
def test_scheduler_file_of_either_library_loads_in_the_other(name: str, kwargs: dict[str, Any]) -> None:
    make: dict[str, Any] = {
        "ours": lambda: build_scheduler(
            name, make_optimizer(), num_warmup_steps=3, num_training_steps=12, specific_kwargs=kwargs
        ),
        "theirs": lambda: make_theirs(name, make_optimizer(), 3, 12, kwargs),
    }
    for source, target in (("ours", "theirs"), ("theirs", "ours")):
        whole, stopped, resumed = make[source](), make[source](), make[target]()
        course = rates(whole, 12)
        rates(stopped, 5)
        assert stopped.state_dict().keys() == resumed.state_dict().keys()
        assert stopped.state_dict()["lr_lambdas"] == resumed.state_dict()["lr_lambdas"]
        file = io.BytesIO()
        torch.save((stopped.state_dict(), stopped.optimizer.state_dict()), file)
        file.seek(0)
        scheduler_state, optimizer_state = torch.load(file, weights_only=True)
        resumed.load_state_dict(scheduler_state)
        resumed.optimizer.load_state_dict(optimizer_state)
        assert rates(resumed, 7) == course[5:]


def test_state_does_not_carry_the_plan_so_more_steps_follow_the_new_one() -> None:
    short = build_scheduler("linear", make_optimizer(), num_warmup_steps=0, num_training_steps=10)
    rates(short, 5)
    longer = build_scheduler("linear", make_optimizer(), num_warmup_steps=0, num_training_steps=20)
    longer.load_state_dict(short.state_dict())
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr()[0] == 0.1 * (14 / 20)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=str)
def test_scheduler_can_be_copied_and_pickled(name: str, kwargs: dict[str, Any]) -> None:
    scheduler = build_scheduler(
        name, make_optimizer(), num_warmup_steps=2, num_training_steps=9, specific_kwargs=kwargs
    )
    rates(scheduler, 4)
    copies = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
    course = rates(scheduler, 5)
    assert all(rates(each, 5) == course for each in copies)


def test_plateau_scheduler_acts_as_that_of_transformers() -> None:
    kwargs = {"mode": "max", "patience": 1, "factor": 0.3, "min_lr": [0.001, 0.0]}
    mine = build_scheduler(
        "reduce_lr_on_plateau",
        make_optimizer(),
        num_warmup_steps=5,
        num_training_steps=100,
        specific_kwargs=kwargs,
    )
    other = make_theirs("reduce_lr_on_plateau", make_optimizer(), 5, 100, kwargs)
    assert type(mine) is type(other) is ReduceLROnPlateau
    for metric in (0.1, 0.5, 0.4, 0.4, 0.4, 0.3, 0.2, 0.9, 0.1, 0.1, 0.1):
        mine.step(metric)
        other.step(metric)
        assert mine.get_last_lr() == other.get_last_lr()
    assert mine.get_last_lr()[0] < 0.1
    assert mine.state_dict() == other.state_dict()
    other.load_state_dict(mine.state_dict())


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("linear", {"num_cycles": 2}, "the key 'num_cycles': 'linear' takes nothing"),
        ("constant", {"power": 2}, "the key 'power': 'constant' takes nothing"),
        ("constant_with_warmup", {"power": 2}, "the key 'power': 'constant_with_warmup' takes nothing"),
        ("cosine", {"cycles": 2}, "the key 'cycles': 'cosine' takes num_cycles"),
        ("cosine", {"num_warmup_steps": 2}, "the key 'num_warmup_steps': 'cosine' takes num_cycles"),
        ("cosine", {"last_epoch": 2}, "the key 'last_epoch': 'cosine' takes num_cycles"),
        ("cosine", {"num_cycles": "2"}, "num_cycles='2': expected a finite number"),
        ("cosine", {"num_cycles": float("nan")}, "num_cycles=nan: expected a finite number"),
        ("cosine", {"num_cycles": None}, "num_cycles=None: expected a finite number"),
        ("cosine_with_min_lr", {}, "min_lr=None, min_lr_rate=None: expected exactly one of them"),
        ("cosine_warmup_with_min_lr", {"min_lr": 0.1, "min_lr_rate": 0.1}, "expected exactly one of them"),
        ("polynomial", {"lr_end": 0.5}, "lr_end=0.5: expected less than the learning rate, 0.1"),
        ("inverse_sqrt", {"timescale": 0}, "timescale=0: expected a number above 0"),
        ("warmup_stable_decay", {}, "lacks 'num_decay_steps': 'warmup_stable_decay' needs it, and takes num_decay_s"),
        ("warmup_stable_decay", {"num_decay_steps": 1, "decay_type": "cubic"}, "decay_type='cubic': expected 'linear'"),
        ("warmup_stable_decay", {"num_decay_steps": 1, "warmup_type": 3}, "warmup_type=3: expected a text"),
        ("reduce_lr_on_plateau", {"patient": 1}, "the key 'patient': 'reduce_lr_on_plateau' takes mode, factor, patie"),
        ("reduce_lr_on_plateau", {"factor": 2}, "refused them: Factor should be < 1.0"),
        ("reduce_lr_on_plateau", {"mode": "least"}, "refused them: mode least is unknown"),
        ("reduce_lr_on_plateau", {"patience": True}, "patience=True: expected a finite number"),
        ("reduce_lr_on_plateau", {"min_lr": ["a", "b"]}, "min_lr=['a', 'b']: expected a finite number"),
    ],
)
def test_kwargs_that_cannot_be_honoured_are_refused(name: str, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        build_scheduler(name, make_optimizer(), num_warmup_steps=1, num_training_steps=10, specific_kwargs=kwargs)
    assert said in str(caught.value)


def test_missing_plan_is_named() -> None:
    with pytest.raises(ArgumentError, match="num_training_steps=None: expected a whole number, the schedule 'linear'"):
        ours.get_scheduler("linear", make_optimizer(), num_warmup_steps=1)
    with pytest.raises(ArgumentError, match=r"num_warmup_steps=None: .* 'inverse_sqrt' needs it"):
        ours.get_scheduler("inverse_sqrt", make_optimizer())
    with pytest.raises(ArgumentError, match="num_training_steps=None, num_stable_steps=None"):
        ours.get_wsd_schedule(make_optimizer(), 1, 2)


@pytest.mark.parametrize("kwargs", [{"num_decay_steps": 20}, {"num_decay_steps": 2, "num_stable_steps": 3}], ids=str)
def test_phases_that_do_not_fill_the_training_are_mentioned(
    kwargs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        build_scheduler(
            "warmup_stable_decay", make_optimizer(), num_warmup_steps=2, num_training_steps=10, specific_kwargs=kwargs
        )
    assert "decay steps are" in caplog.text


@pytest.mark.parametrize("name", [name for name in dir(ours) if name.startswith("get_") and name != "get_logger"])
def test_functions_have_the_signatures_of_transformers(name: str) -> None:
    mine = inspect.signature(getattr(ours, name)).parameters
    other = inspect.signature(getattr(theirs, name)).parameters
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [(p.name, p.default, p.kind) for p in other.values()]


def test_every_schedule_function_of_transformers_has_its_counterpart() -> None:
    functions = {name for name in dir(theirs) if name.startswith("get_") and name.endswith(("schedule", "scheduler"))}
    functions |= {name for name in dir(theirs) if name.startswith("get_") and "_schedule_with_warmup" in name}
    assert functions - set(dir(ours)) == {"get_greedy_schedule", "get_adafactor_schedule"}
