"""Optimizers: the same as transformers makes of the same arguments, and errors that name what is wrong."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer as TransformersTrainer
from transformers.training_args import OptimizerNames

from loopwright._support import log
from loopwright.errors import ArgumentError, UnsupportedArgument
from loopwright.loop.optimizers import (
    build_optimizer,
    decay_parameter_names,
    optimizer_class_and_kwargs,
    parameter_groups,
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(log, "_said", set())


def make_args(**changes: Any) -> Any:
    fields = {
        "optim": "adamw_torch",
        "optim_args": None,
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-7,
    }
    return SimpleNamespace(**{**fields, **changes})


class Block(nn.Module):
    """Has every kind of name and type that the rule about weight decay looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 3)
        self.LayerNormLike = nn.Linear(3, 3)  # in another case of letters
        self.norm = nn.BatchNorm1d(3)
        self.final_norm = nn.GroupNorm(1, 3)
        self.normal = nn.Linear(3, 3)  # a name that only begins like one
        self.unnamed = nn.LayerNorm(3)
        self.rmsnorm1 = nn.Linear(3, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(3))
        self.biased_scale = nn.Parameter(torch.ones(3))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.stack = nn.ModuleList([Block(), Block()])
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.dense.weight
        self.norm_weight = nn.Parameter(torch.ones(3))
        self.layers_norm = nn.Parameter(torch.ones(3))


class NormInside(nn.LayerNorm):
    """A LayerNorm with something inside, and a subclass of it."""

    def __init__(self) -> None:
        super().__init__(3)
        self.inner = nn.Linear(3, 3)


MODELS = {
    "network": Network,
    "linear": lambda: nn.Linear(2, 2),
    "only a norm": lambda: nn.LayerNorm(4),
    "a norm around": lambda: nn.Sequential(NormInside(), nn.Linear(3, 1)),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
}


def transformers_trainer(model: nn.Module, args: Any) -> Any:
    """Return transformers' Trainer with the parts alone that its making of an optimizer uses."""
    trainer = TransformersTrainer.__new__(TransformersTrainer)
    trainer.model, trainer.args = model, args
    trainer.optimizer = trainer.optimizer_cls_and_kwargs = None
    return trainer


def groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[list[str], dict[str, Any]]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        ([names[id(p)] for p in group["params"]], {key: value for key, value in group.items() if key != "params"})
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("kind", MODELS)
def test_weight_decay_is_for_the_parameters_that_transformers_takes(kind: str) -> None:
    model = MODELS[kind]()
    theirs = transformers_trainer(model, make_args()).get_decay_parameter_names(model)
    # It also lists what a module has registered as None, such as the projections that attention doesn't use.
    there = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert sorted(decay_parameter_names(model)) == sorted(there.intersection(theirs))


def test_each_exemption_from_weight_decay_works_by_itself() -> None:
    decayed = decay_parameter_names(Block())
    assert decayed == ["scale", "dense.weight", "normal.weight"]


def test_frozen_parameters_are_in_no_group_and_tied_ones_in_one() -> None:
    model = Network()
    groups = parameter_groups(model, 0.3)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_names_of_an_override_decide_which_parameters_decay() -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, make_args(weight_decay=0.5), decayed_names=["bias"])
    assert [names for names, _ in groups_by_name(model, optimizer)] == [["bias"], ["weight"]]


CHOICES = [
    {"optim": "adamw_torch"},
    {"optim": "adamw_torch_fused"},
    {"optim": "sgd"},
    {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True"},
    {"optim": "sgd", "optim_args": "momentum=0.9,dampening=0.1,nesterov=no,weight_decay=0.25"},
    {"optim": "adagrad"},
    {"optim": "adagrad", "optim_args": "lr_decay=1e-3,eps=1e-9,weight_decay=0.25"},
    {"optim": "rmsprop"},
    {"optim": "rmsprop", "optim_args": "momentum=.5,alpha=0.9,eps=1e-6,centered=1,weight_decay=0.25"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(choice.values()))
def test_class_and_keywords_are_those_of_transformers(choice: dict[str, str]) -> None:
    args = make_args(weight_decay=0.25, **choice)
    theirs = TransformersTrainer.get_optimizer_cls_and_kwargs(args)
    assert optimizer_class_and_kwargs(args) == theirs
    assert optimizer_class_and_kwargs(make_args(**{**vars(args), "optim": OptimizerNames(args.optim)})) == theirs


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(choice.values()))
def test_optimizer_moves_the_weights_as_that_of_transformers_does(choice: dict[str, str]) -> None:
    args = make_args(weight_decay=0.25, **choice)
    torch.manual_seed(1)
    ours = Network()
    theirs = copy.deepcopy(ours)
    our_optimizer = build_optimizer(ours, args)
    their_optimizer = transformers_trainer(theirs, args).create_optimizer()
    assert groups_by_name(ours, our_optimizer) == groups_by_name(theirs, their_optimizer)
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        our_optimizer.step()
        their_optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    their_optimizer.load_state_dict(our_optimizer.state_dict())
    our_optimizer.load_state_dict(their_optimizer.state_dict())


def test_adafactor_is_that_of_torch() -> None:
    args = make_args(optim="adafactor", optim_args="beta2_decay=-0.5,d=2")
    optimizer = build_optimizer(nn.Linear(2, 2), args)
    assert type(optimizer) is torch.optim.Adafactor
    assert optimizer.defaults["lr"] == args.learning_rate
    assert (optimizer.defaults["beta2_decay"], optimizer.defaults["d"]) == (-0.5, 2.0)


@pytest.mark.parametrize(
    ("optim", "optim_args", "said"),
    [
        ("sgd", "momentun=0.9", "'momentun'; its keys: momentum, dampening, weight_decay, nesterov"),
        ("adamw_torch", "amsgrad=true", "'amsgrad'; its keys: none"),
        ("sgd", "momentum=much", "momentum='much', expected a finite number"),
        ("sgd", "momentum=nan", "momentum='nan', expected a finite number"),
        ("sgd", "nesterov=maybe", "nesterov='maybe', expected true or false"),
        ("sgd", "momentum", "expected key=value,key=value, found 'momentum'"),
        ("sgd", "momentum=0.9,", "expected key=value,key=value, found ''"),
        ("sgd", "=0.9", "found '=0.9'"),
        ("sgd", "momentum=0.9,momentum=0.8", "'momentum' is there twice"),
        ("sgd", "weight_decay=0.1", "set that one"),
    ],
)
def test_optim_args_that_cannot_be_honoured_are_refused(optim: str, optim_args: str, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        optimizer_class_and_kwargs(make_args(optim=optim, optim_args=optim_args))
    assert repr(optim_args) in str(caught.value)
    assert said in str(caught.value)


def test_optimizer_of_another_package_is_refused_with_what_there_is() -> None:
    with pytest.raises(UnsupportedArgument, match=r"optim='lion_8bit': expected one of adamw_torch, .*rmsprop"):
        optimizer_class_and_kwargs(make_args(optim=OptimizerNames.LION_8BIT))


def test_fused_is_used_where_torch_has_it() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), make_args(optim="adamw_torch_fused"))
    assert optimizer.defaults["fused"] is True


def test_fused_falls_back_with_one_log_line_where_torch_refuses(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))  # no kernels at all for "meta"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            optimizer = build_optimizer(model, make_args(optim="adamw_torch_fused"))
    assert not optimizer.defaults["fused"]
    assert len(caplog.records) == 1
    assert "unfused" in caplog.text
    assert "meta" in caplog.text


def test_frozen_parameters_do_not_keep_an_optimizer_from_being_fused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta").requires_grad_(False))
    assert build_optimizer(model, make_args(optim="adamw_torch_fused")).defaults["fused"] is True


def test_asking_torch_whether_it_fuses_moves_no_random_stream() -> None:
    before = torch.get_rng_state()
    model = nn.Linear(2, 2, device="meta")
    build_optimizer(model, make_args(optim="adamw_torch_fused"))
    assert torch.equal(torch.get_rng_state(), before)


def test_ready_made_choice_gets_the_groups_and_keeps_its_keywords() -> None:
    model = nn.Linear(2, 2)
    keywords = {"lr": 0.5, "momentum": 0.1}
    optimizer = build_optimizer(model, make_args(weight_decay=0.2), (torch.optim.SGD, keywords))
    assert type(optimizer) is torch.optim.SGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert keywords == {"lr": 0.5, "momentum": 0.1}


def test_weight_decay_of_a_ready_made_choice_is_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_optimizer(nn.Linear(2, 2), make_args(), (torch.optim.SGD, {"lr": 0.5, "weight_decay": 0.1}))
    assert "weight_decay=0.1 has no effect" in caplog.text


class KeepsFirstArgument(torch.optim.SGD):
    """An optimizer that takes something else than groups of parameters."""

    def __init__(self, first: Any, lr: float) -> None:
        self.first = first
        super().__init__([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("key", ["params", "model", "optimizer_dict"])
def test_ready_made_choice_can_say_what_stands_for_the_parameters(key: str) -> None:
    model, stands_for = nn.Linear(2, 2), object()
    keywords = {"lr": 0.5, key: stands_for}
    for _ in range(2):  # the keywords are still whole the second time, as a second `train()` needs
        optimizer = build_optimizer(model, make_args(), (KeepsFirstArgument, keywords))
        assert optimizer.first is stands_for  # type: ignore[attr-defined]


def test_factory_is_called_with_model_and_keywords() -> None:
    class Factory:
        def __call__(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=lr)

    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, make_args(), (Factory, {"lr": 0.25}))
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert optimizer.defaults["lr"] == 0.25
