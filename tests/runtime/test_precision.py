"""Precision: what is computed in which format, and which updates were really made."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.arguments.devices import choose_device
from loopwright.errors import ArgumentError
from loopwright.runtime.device import empty_cache, is_accelerator
from loopwright.runtime.precision import apply_tf32, choose_precision, has_tf32

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_args(**changes: Any) -> Any:
    return SimpleNamespace(**{"fp16": False, "bf16": False, "tf32": None, "torch_compile": False, **changes})


def train_one(precision: Any, model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> bool:
    """Do one update; return what `step` said."""
    optimizer.zero_grad()
    with precision.autocast():
        loss = model(x).float().mean()
    precision.backward(loss)
    precision.unscale(optimizer)
    return bool(precision.step(optimizer))


def make_model(device: torch.device = CPU) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 2).to(device)


@pytest.mark.parametrize(
    ("changes", "dtype"), [({}, torch.float32), ({"bf16": True}, torch.bfloat16), ({"fp16": True}, torch.float16)]
)
def test_forward_runs_in_the_format_asked_for(changes: dict[str, bool], dtype: torch.dtype) -> None:
    precision = choose_precision(make_args(**changes), CPU)
    model = make_model()
    with precision.autocast():
        assert model(torch.ones(1, 4)).dtype == dtype
    assert model(torch.ones(1, 4)).dtype == torch.float32
    assert (precision.scaler is not None) == (dtype == torch.float16)


def test_without_mixed_precision_the_context_is_one_object_that_does_nothing() -> None:
    precision = choose_precision(make_args(), CPU)
    assert isinstance(precision.autocast(), contextlib.nullcontext)
    assert precision.autocast() is precision.autocast()


def test_autocast_may_be_entered_inside_itself_and_is_off_afterwards() -> None:
    precision = choose_precision(make_args(bf16=True), CPU)
    with precision.autocast(), precision.autocast():
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_update_without_mixed_precision_is_that_of_plain_torch() -> None:
    precision = choose_precision(make_args(), CPU)
    mine, other = make_model(), make_model()
    x = torch.randn(3, 4)
    assert train_one(precision, mine, torch.optim.SGD(mine.parameters(), lr=0.1), x)
    plain = torch.optim.SGD(other.parameters(), lr=0.1)
    other(x).float().mean().backward()
    plain.step()
    assert torch.equal(mine.weight, other.weight)
    assert precision.state_dict() == {}


@pytest.mark.parametrize("fused", [False, True])
def test_update_with_an_infinite_gradient_is_skipped_and_said_to_be(fused: bool) -> None:
    precision = choose_precision(make_args(fp16=True), CPU)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    before = model.weight.detach().clone()
    # float16 ends at 65,504: the scaled gradient of this input doesn't fit.
    assert train_one(precision, model, optimizer, torch.full((1, 4), 60_000.0)) is False
    assert torch.equal(model.weight, before)
    assert train_one(precision, model, optimizer, torch.full((1, 4), 0.5)) is True
    assert not torch.equal(model.weight, before)


def test_update_is_made_when_nobody_unscaled_before_it() -> None:
    precision = choose_precision(make_args(fp16=True), CPU)
    mine, other = make_model(), make_model()
    x = torch.full((1, 4), 0.5)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.1)
    with precision.autocast():
        loss = mine(x).float().mean()
    precision.backward(loss)
    assert mine.weight.grad is not None
    assert mine.weight.grad.abs().max() > 1000  # still scaled
    assert precision.step(optimizer) is True
    assert train_one(choose_precision(make_args(), CPU), other, torch.optim.SGD(other.parameters(), lr=0.1), x)
    torch.testing.assert_close(mine.weight, other.weight, rtol=1e-3, atol=1e-3)


def test_growing_scale_is_no_skipped_update() -> None:
    precision = choose_precision(make_args(fp16=True), CPU)
    precision.load_state_dict({**precision.state_dict(), "scale": 8.0, "growth_interval": 1})
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scales = []
    for _ in range(3):
        assert train_one(precision, model, optimizer, torch.full((1, 4), 1e-3))
        scales.append(precision.state_dict()["scale"])
    assert scales == [16.0, 32.0, 64.0]


def test_weights_survive_any_number_of_infinite_gradients() -> None:
    precision = choose_precision(make_args(fp16=True), CPU)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    # Left alone, the scale is 0 after 166 of them, and torch then makes an update with NaN.
    for _ in range(180):
        assert train_one(precision, model, optimizer, torch.full((1, 4), float("inf"))) is False
    assert torch.equal(model.weight, before)
    assert train_one(precision, model, optimizer, torch.full((1, 4), 0.5)) is True
    assert model.weight.isfinite().all()


def test_scale_goes_on_where_it_was() -> None:
    first = choose_precision(make_args(fp16=True), CPU)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for value in (60_000.0, 60_000.0, 0.5):
        train_one(first, model, optimizer, torch.full((1, 4), value))
    second = choose_precision(make_args(fp16=True), CPU)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.state_dict()["scale"] == 2.0**14


def test_scale_without_a_counterpart_is_left_out_and_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    with_scale, without = choose_precision(make_args(fp16=True), CPU), choose_precision(make_args(bf16=True), CPU)
    fresh = with_scale.state_dict()
    with caplog.at_level(logging.WARNING):
        without.load_state_dict(fresh)
        with_scale.load_state_dict(without.state_dict())
        without.load_state_dict({})
    assert with_scale.state_dict() == fresh
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_two_formats_at_once_are_refused() -> None:
    with pytest.raises(ArgumentError, match="fp16=True, bf16=True: expected at most one"):
        choose_precision(make_args(fp16=True, bf16=True), CPU)


def test_tf32_is_refused_where_the_device_has_none() -> None:
    assert not has_tf32(CPU)
    with pytest.raises(ArgumentError, match=r"tf32=True: expected an NVIDIA GPU .* found cpu"):
        choose_precision(make_args(tf32=True), CPU)
    choose_precision(make_args(tf32=False), CPU)
    choose_precision(make_args(torch_compile=True), CPU)


@pytest.mark.gpu
@needs_gpu
def test_tf32_is_set_where_the_device_has_it_and_compilation_still_asks_for_it() -> None:
    device = torch.device("cuda", 0)
    if not has_tf32(device):
        pytest.skip("this GPU is older than TF32")
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for flag in (True, False):
            apply_tf32(flag, device)
            assert torch.backends.cuda.matmul.allow_tf32 is flag
            assert torch.backends.cudnn.allow_tf32 is flag
            assert torch.get_float32_matmul_precision() == ("high" if flag else "highest")
        choose_precision(make_args(torch_compile=True, tf32=False), device)
        assert torch.backends.cuda.matmul.allow_tf32 is False
        choose_precision(make_args(torch_compile=True), device)
        assert torch.backends.cuda.matmul.allow_tf32 is True
    finally:
        apply_tf32(before, device)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("fused", [False, True])
def test_skipped_update_is_noticed_on_the_gpu_too(fused: bool) -> None:
    device = torch.device("cuda", 0)
    precision = choose_precision(make_args(fp16=True), device)
    model = make_model(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    before = model.weight.detach().clone()
    assert train_one(precision, model, optimizer, torch.full((1, 4), 60_000.0, device=device)) is False
    assert torch.equal(model.weight, before)
    assert train_one(precision, model, optimizer, torch.full((1, 4), 0.5, device=device)) is True
    assert not torch.equal(model.weight, before)


@pytest.mark.gpu
@needs_gpu
def test_device_follows_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    last = torch.cuda.device_count() - 1
    monkeypatch.setenv("LOCAL_RANK", str(last))
    device = choose_device(use_cpu=False)
    assert device == torch.device("cuda", last)
    assert torch.cuda.current_device() == last
    assert torch.ones(1, device="cuda").device == device
    assert is_accelerator(device)
    empty_cache(device)
    monkeypatch.setenv("LOCAL_RANK", str(last + 1))
    with pytest.raises(ArgumentError, match=f"LOCAL_RANK={last + 1}: expected a number from 0 to {last}"):
        choose_device(use_cpu=False)


def test_cpu_is_used_where_asked_for() -> None:
    device = choose_device(use_cpu=True)
    assert device == CPU
    assert not is_accelerator(device)
    empty_cache(device)


def test_device_is_the_one_that_torch_itself_reports() -> None:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = choose_device(use_cpu=False)
    assert device.type == (accelerator.type if accelerator else "cpu")
    assert torch.zeros(1, device=device).device == device
