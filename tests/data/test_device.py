"""Batches moved whole: same containers, same objects where nothing moves. "meta" stands for another device."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from types import MappingProxyType

import pytest
import torch
import transformers
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from transformers.modeling_outputs import SequenceClassifierOutput

from loopwright.data import device
from loopwright.data.device import move_to_device

CPU, META = torch.device("cpu"), torch.device("meta")
Pair = namedtuple("Pair", ["left", "right"])


def _batches():
    one = torch.ones(2)
    return [
        one,
        {"x": one, "y": torch.zeros(1)},
        {"x": one, "name": "text", "count": 3, "nothing": None},
        {"x": {"y": [one, (one, "b")]}},
        [one, 1],
        (one, [one]),
        Pair(one, {"x": one}),
        OrderedDict(b=one, a=one),
        defaultdict(list, x=one),
        MappingProxyType({"x": one}),
        transformers.BatchEncoding({"x": one}),
        SequenceClassifierOutput(loss=one, logits=one),
    ]


@pytest.mark.parametrize("batch", _batches(), ids=lambda batch: type(batch).__name__)
def test_a_batch_that_is_there_already_is_the_same_object(batch):
    assert move_to_device(batch, CPU) is batch
    assert move_to_device(batch, torch.device("cpu"), non_blocking=True) is batch


def _leaves(nested):
    if hasattr(nested, "items"):
        nested = list(nested.values())
    if isinstance(nested, (list, tuple)):
        return [leaf for item in nested for leaf in _leaves(item)]
    return [nested]


@pytest.mark.parametrize("batch", _batches(), ids=lambda batch: type(batch).__name__)
def test_a_moved_batch_has_the_same_containers(batch):
    if isinstance(batch, MappingProxyType):
        moved = move_to_device(batch, META)
    else:
        moved = move_to_device(batch, META)
        if hasattr(batch, "keys"):
            assert list(moved) == list(batch)
    assert type(moved) is type(batch)
    assert moved is not batch
    before, after = _leaves(batch), _leaves(moved)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, torch.Tensor):
            assert (old.device, new.device) == (CPU, META)
        else:
            assert new is old


def test_what_a_mapping_holds_beside_its_items_is_kept():
    assert move_to_device(defaultdict(list, x=torch.ones(1)), META)["new"] == []
    output = move_to_device(SequenceClassifierOutput(logits=torch.ones(1)), META)
    assert output.logits.device == META


def test_objects_that_can_move_themselves_are_asked_to():
    class Graph:
        device = CPU

        def to(self, device, non_blocking):
            self.device = device
            return self

    graph = Graph()
    assert move_to_device({"graph": graph}, META)["graph"] is graph
    assert graph.device == META
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    assert isinstance(move_to_device({"x": packed}, CPU)["x"], PackedSequence)
    assert move_to_device(packed, CPU) is packed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_batches_move_to_the_gpu_and_stay_there():
    gpu = torch.device("cuda", 0)
    moved = move_to_device({"x": torch.ones(3).pin_memory(), "y": [torch.zeros(1)]}, gpu, non_blocking=True)
    assert moved["x"].device == moved["y"][0].device == gpu
    assert moved["x"].tolist() == [1, 1, 1]
    assert move_to_device(moved, gpu) is moved
    assert move_to_device(moved, torch.device("cuda")) is moved
    packed = move_to_device(pack_sequence([torch.ones(3), torch.ones(2)]), gpu)
    assert (packed.data.device, packed.batch_sizes.device) == (gpu, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_a_copy_does_not_wait_for_what_the_gpu_computes_and_is_waited_for():
    gpu = torch.device("cuda", 0)
    batch = {"x": torch.ones(1 << 20).pin_memory()}
    move_to_device(batch, gpu, non_blocking=True)  # streams and memory are made
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    busy = torch.cuda.Event()
    busy.record()
    moved = move_to_device(batch, gpu, non_blocking=True)
    total = moved["x"].sum()
    device._copy_stream(gpu).synchronize()
    assert not busy.query()  # the copy is done, what was asked for before it isn't
    assert total.item() == 1 << 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_memory_of_a_batch_is_not_given_to_the_next_while_it_is_computed_with():
    gpu = torch.device("cuda", 0)
    totals = []
    for number in range(50):
        moved = move_to_device(torch.full((1 << 20,), float(number)).pin_memory(), gpu, non_blocking=True)
        torch.cuda._sleep(20_000_000)  # the program is ahead: the batch is used long after it was let go
        totals.append(moved.sum())
        del moved
    assert [total.item() for total in totals] == [float(number << 20) for number in range(50)]
