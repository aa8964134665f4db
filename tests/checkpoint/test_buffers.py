"""Copies of a training's state in memory: equal, independent, and in the same memory each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from loopwright.checkpoint.buffers import Buffers


def bytes_of(buffers: Buffers) -> int:
    """Return how much memory `buffers` holds."""
    free = [buffer for kept in buffers._free.values() for buffer in kept]
    return sum(buffer.nbytes for buffer in (*free, *buffers_in_use(buffers)))


def buffers_in_use(buffers: Buffers) -> list[torch.Tensor]:
    return [buffer for group in buffers._groups.values() for buffer in group.buffers]


def tensors_in(nested: Any) -> list[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        return [nested]
    items = nested.values() if isinstance(nested, dict) else nested if isinstance(nested, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


class Labelled(torch.Tensor):
    """A tensor of a class of its own."""


def _views() -> dict[str, torch.Tensor]:
    whole = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": whole,
        "rows": whole[1:3],
        "column": whole[:, 2],
        "transposed": whole.t(),
        "flipped": whole.view(6, 4),
    }


KINDS: dict[str, torch.Tensor] = {
    "contiguous": torch.randn(3, 4),
    "transposed": torch.randn(3, 4).t(),
    "every other": torch.randn(10)[::2],
    "with an offset": torch.randn(10)[3:],
    "expanded": torch.randn(3, 1).expand(3, 5),
    "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "zero-dimensional": torch.tensor(3.5),
    "a number out of many": torch.randn(100)[7],
    "empty": torch.empty(0),
    "empty, of two dimensions": torch.empty(3, 0),
    "empty part": torch.randn(5)[2:2],
    "bfloat16": torch.randn(7).bfloat16(),
    "bfloat16, a small part": torch.randn(100).bfloat16()[3:6],
    "bool": torch.tensor([True, False, True]),
    "int64": torch.arange(5),
    "float64, a small part": torch.randn(100, dtype=torch.float64)[1:3],
    "complex": torch.randn(4, dtype=torch.complex64),
    "conjugated": torch.randn(4, dtype=torch.complex64).conj(),
    "negated": torch.randn(4, dtype=torch.complex64).conj().imag,
    "sparse": torch.eye(4).to_sparse(),
    "parameter": nn.Parameter(torch.randn(3)),
    "of a subclass": torch.randn(3).as_subclass(Labelled),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_equal_and_independent(kind: str) -> None:
    tensor = KINDS[kind].detach().clone() if "sparse" in kind else KINDS[kind]
    before = tensor.detach().clone()
    copied = Buffers().copy({"it": tensor})["it"]
    assert copied.dtype == tensor.dtype
    assert copied.shape == tensor.shape
    assert copied.layout == tensor.layout
    assert not copied.requires_grad
    assert torch.equal(copied.to_dense(), before.to_dense())
    if tensor.layout is torch.strided and tensor.numel():
        assert copied.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    with torch.no_grad():
        tensor.zero_()
    assert torch.equal(copied.to_dense(), before.to_dense())


def test_a_copy_keeps_the_class_of_a_tensor_that_has_one_of_its_own() -> None:
    assert type(Buffers().copy([torch.ones(2).as_subclass(Labelled)])[0]) is Labelled


def test_containers_come_back_as_they_were() -> None:
    nested = {
        "list": [1, torch.ones(2)],
        "tuple": (torch.zeros(1), "text"),
        "none": None,
        3: {"deep": [[0.5]]},
        "set": {1},
    }
    copied = Buffers().copy(nested)
    assert list(copied) == list(nested)
    assert type(copied["tuple"]) is tuple
    assert copied["tuple"][1] == "text"
    assert copied["none"] is None
    assert copied[3] == {"deep": [[0.5]]}
    nested[3]["deep"][0].append(1)  # type: ignore[index]
    nested["set"].add(2)  # type: ignore[union-attr]
    assert copied[3] == {"deep": [[0.5]]}
    assert copied["set"] == {1}


def test_views_of_one_tensor_share_memory_in_the_copy() -> None:
    live = _views()
    buffers = Buffers()
    copied = buffers.copy(live)
    for name, tensor in live.items():
        assert torch.equal(copied[name], tensor)
        assert copied[name].stride() == tensor.stride()
        assert copied[name].storage_offset() == tensor.storage_offset()
    assert len({tensor.untyped_storage().data_ptr() for tensor in copied.values()}) == 1
    assert bytes_of(buffers) == live["whole"].nbytes


@pytest.mark.parametrize("size", [4, 1000])
def test_tied_weights_stay_tied_however_much_else_their_memory_holds(size: int) -> None:
    weight = torch.randn(size)[:4]
    buffers = Buffers()
    copied = buffers.copy({"embedding": weight, "nested": [weight.view(4), nn.Parameter(weight)]})
    places = {tensor.data_ptr() for tensor in tensors_in(copied)}
    assert len(places) == 1
    assert torch.equal(copied["nested"][0], weight)
    assert bytes_of(buffers) == 16


def test_of_a_huge_storage_only_the_part_is_copied() -> None:
    huge = torch.randn(1_000_000)
    buffers = Buffers()
    copied = buffers.copy([huge[10:20], huge[500:600].view(10, 10).t()])
    assert torch.equal(copied[0], huge[10:20])
    assert torch.equal(copied[1], huge[500:600].view(10, 10).t())
    assert bytes_of(buffers) == 4 * 110
    reserved = Buffers()
    reserved.reserve([huge[10:20], huge[10:20]])
    assert bytes_of(reserved) == 4 * 10


def test_parts_that_make_up_most_of_a_storage_are_copied_with_it_at_once() -> None:
    flat = torch.randn(100)
    buffers = Buffers()
    copied = buffers.copy([flat[:30], flat[30:60]])
    assert bytes_of(buffers) == flat.nbytes
    assert copied[0].untyped_storage().data_ptr() == copied[1].untyped_storage().data_ptr()
    assert torch.equal(torch.cat(copied), flat[:60])


def _trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    _step(model, optimizer)
    return model, optimizer


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 5)).sum().backward()
    optimizer.step()


def _flat(nested: Any) -> list[Any]:
    if isinstance(nested, dict):
        return [(key, _flat(value)) for key, value in nested.items()]
    if isinstance(nested, (list, tuple)):
        return [_flat(item) for item in nested]
    return nested.tolist() if isinstance(nested, torch.Tensor) else nested


def test_model_and_optimizer_are_copied_as_they_are_and_stay_so_while_training_goes_on() -> None:
    model, optimizer = _trained()
    live = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    before = _flat(live)
    copied = Buffers().copy(live)
    assert _flat(copied) == before
    _step(model, optimizer)
    optimizer.param_groups[0]["lr"] = 7.0
    assert _flat(copied) == before
    assert _flat({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}) != before
    twin, other = _trained()
    other.load_state_dict(copied["optimizer"])
    twin.load_state_dict(copied["model"])


def test_the_next_copy_lies_in_the_memory_of_the_last() -> None:
    model, optimizer = _trained()
    buffers = Buffers()
    first = {tensor.data_ptr() for tensor in tensors_in(buffers.copy([model.state_dict(), optimizer.state_dict()]))}
    size = bytes_of(buffers)
    for _ in range(3):
        _step(model, optimizer)
        live = [model.state_dict(), optimizer.state_dict()]
        copied = buffers.copy(live)
        assert {tensor.data_ptr() for tensor in tensors_in(copied)} == first
        assert _flat(copied) == _flat(live)
    assert bytes_of(buffers) == size


def test_reserved_memory_is_what_the_first_copy_takes() -> None:
    model, optimizer = _trained()
    views, part = _views(), torch.randn(1000)[:3]
    live = [model.state_dict(), optimizer.state_dict(), views, [part, torch.empty(0), torch.eye(2).to_sparse()]]
    buffers = Buffers()
    buffers.reserve(live)
    size = bytes_of(buffers)
    reserved = {buffer.data_ptr() for buffer in buffers_in_use(buffers)}
    copied = buffers.copy(live)
    assert bytes_of(buffers) == size
    used = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(copied) if tensor.layout is torch.strided}
    assert used - {0} <= reserved


def test_a_copy_grows_with_the_state_and_reserving_anew_frees_nothing_in_use() -> None:
    buffers = Buffers()
    first = buffers.copy([torch.ones(3)])
    second = buffers.copy([torch.full((3,), 2.0), torch.full((5,), 3.0)])
    assert first[0].data_ptr() == second[0].data_ptr()
    assert [tensor.tolist() for tensor in second] == [[2.0] * 3, [3.0] * 5]


def test_waiting_and_fencing_are_free_where_there_is_no_device() -> None:
    buffers = Buffers()
    buffers.copy([torch.ones(1)])
    buffers.fence()
    buffers.wait()
    assert buffers._copied == []
