from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from loopwright.errors import ArgumentError, CheckpointError
from loopwright.runtime import randomness
from loopwright.runtime.randomness import capture_randomness, enable_full_determinism, restore_randomness, set_seed


@pytest.fixture(autouse=True)
def _leave_things_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    states = capture_randomness()
    monkeypatch.setattr("loopwright._support.log._said", set())
    yield
    restore_randomness(states)
    torch.use_deterministic_algorithms(False)


def draw() -> list[float]:
    """Return some numbers of every kind, the second Gaussian of a pair among them."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.random()),
        float(np.random.standard_normal()),
        torch.rand(1).item(),
        torch.randn(1).item(),
    ]


def test_the_same_seed_gives_the_same_numbers_as_transformers() -> None:
    set_seed(7)
    ours = draw()
    transformers.set_seed(7)
    assert draw() == ours
    set_seed(8)
    assert draw() != ours


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_by_name(seed: int) -> None:
    before = draw_without_moving()
    with pytest.raises(ArgumentError, match=rf"seed={seed}: expected .* 0 to 4294967295"):
        set_seed(seed)
    assert draw_without_moving() == before


def draw_without_moving() -> list[float]:
    states = capture_randomness()
    numbers = draw()
    restore_randomness(states)
    return numbers


def test_deterministic_algorithms_are_switched_on_where_asked_for() -> None:
    set_seed(1)
    assert not torch.are_deterministic_algorithms_enabled()
    set_seed(1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("odd_number_of_gaussians", [False, True])
def test_states_come_back_exactly(odd_number_of_gaussians: bool) -> None:
    set_seed(3)
    if odd_number_of_gaussians:  # the other one of the pair is part of the state
        random.gauss(0, 1)
        np.random.standard_normal()
    states = pickle.loads(pickle.dumps(capture_randomness()))
    expected = [draw() for _ in range(50)]
    set_seed(4)
    restore_randomness(states)
    assert [draw() for _ in range(50)] == expected


def test_the_captured_states_do_not_move_on() -> None:
    states = capture_randomness()
    expected = draw()
    restore_randomness(states)
    assert draw() == expected
    restore_randomness(states)
    assert draw() == expected


def test_the_layout_is_that_of_transformers(tmp_path: Any) -> None:
    args = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    transformers.Trainer(torch.nn.Linear(1, 1), args)._save_rng_state(str(tmp_path))
    theirs = torch.load(tmp_path / "rng_state.pth", weights_only=False)
    ours = capture_randomness()
    assert ours.keys() == theirs.keys()
    assert all(type(ours[name]) is type(theirs[name]) for name in ours)


def test_accelerators_that_are_absent_or_were_not_saved_are_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = capture_randomness()
    expected = draw()
    for _ in range(2):
        restore_randomness(states | {"npu": torch.zeros(3)})
        assert draw() == expected
    assert len(caplog.records) == 1
    assert "'npu'" in caplog.text
    restore_randomness({"cpu": states["cpu"]})
    assert "no random state of 'python' was saved" in caplog.text


class FakeAccelerator:
    """Stands for CUDA, which the machines that run these tests lack."""

    def __init__(self, initialized: bool) -> None:
        self.initialized = initialized
        self.states: list[Any] = ["one", "two"]

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.initialized

    def get_rng_state(self) -> Any:
        return self.states[0]

    def set_rng_state(self, state: Any) -> None:
        self.states[0] = state

    def set_rng_state_all(self, states: Any) -> None:
        self.states = list(states)


@pytest.mark.parametrize("initialized", [False, True])
def test_an_accelerator_is_captured_once_used_and_restored_in_any_case(
    monkeypatch: pytest.MonkeyPatch, initialized: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeAccelerator(initialized)
    monkeypatch.setattr(randomness, "_accelerators", lambda: {"cuda": fake})
    states = capture_randomness()
    assert states.get("cuda") == ("one" if initialized else None)
    restore_randomness(states | {"cuda": "three"})
    assert fake.states == ["three", "two"]
    restore_randomness(states | {"cuda": ["four", "five"]})  # as transformers saves it in a distributed run
    assert fake.states == ["four", "five"]
    assert caplog.records == []
    restore_randomness({name: state for name, state in states.items() if name != "cuda"})
    assert ("no random state of 'cuda' was saved" in caplog.text) is initialized


@pytest.mark.gpu
def test_cuda_continues_where_it_was() -> None:
    torch.rand(1, device="cuda")
    states = capture_randomness()
    expected = torch.rand(3, device="cuda")
    restore_randomness(states)
    assert torch.equal(torch.rand(3, device="cuda"), expected)


@pytest.mark.parametrize("name", ["python", "numpy", "cpu"])
@pytest.mark.parametrize("state", [None, "x", (1, 2), {}, torch.zeros(3)])
def test_what_is_no_random_state_is_refused_by_name(name: str, state: Any) -> None:
    with pytest.raises(CheckpointError, match=f"random state '{name}' can't be restored"):
        restore_randomness(capture_randomness() | {name: state})


def test_full_determinism_sets_what_transformers_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for enable in (enable_full_determinism, transformers.enable_full_determinism):
        environment: dict[str, str] = {}
        monkeypatch.setattr(os, "environ", environment)
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        torch.use_deterministic_algorithms(False)
        enable(3, warn_only=True)
        flags = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        )
        outcomes.append((environment, flags, draw()))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] == (True, True, True, False)
    assert len(outcomes[0][0]) == 5


def test_full_determinism_raises_where_not_told_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    enable_full_determinism(3)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.initial_seed() == 3
