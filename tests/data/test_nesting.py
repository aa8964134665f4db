"""What is saved of a batch is plain: nothing that reading it back would have to execute."""

from __future__ import annotations

import enum
from collections import OrderedDict, UserDict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from loopwright.checkpoint.plain_files import load_plain, numpy_arrays_allowed, save_plain
from loopwright.data.nesting import as_plain

Pair = namedtuple("Pair", ["left", "right"])


class OwnList(list):
    pass


class OwnTensor(torch.Tensor):
    pass


class Colour(enum.IntEnum):
    RED = 1


def is_same(one, other):
    """Return whether two plain values are the same in value and type, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


TENSOR = torch.arange(3)
ARRAY = np.arange(3.0)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (2, 2),
        (1.5, 1.5),
        (1j, 1j),
        ("text", "text"),
        (b"bytes", b"bytes"),
        (TENSOR, TENSOR),
        (ARRAY, ARRAY),
        (np.float16(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(4), np.array(4)),
        ([1, (2, [3])], [1, (2, [3])]),
        (Pair(1, TENSOR), (1, TENSOR)),
        (OwnList([1, 2]), [1, 2]),
        (torch.Size([2, 3]), (2, 3)),
        ({"a": {"b": [TENSOR]}}, {"a": {"b": [TENSOR]}}),
        ({np.int64(1): 2, (3, np.int64(4)): 5}, {1: 2, (3, 4): 5}),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict(a=[1]), {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (transformers.BatchEncoding({"input_ids": TENSOR, "labels": [1]}), {"input_ids": TENSOR, "labels": [1]}),
        (transformers.utils.ModelOutput(logits=TENSOR), {"logits": TENSOR}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_come_back_from_a_file_as_they_went_in(value, plain, tmp_path):
    assert is_same(as_plain(value), plain)
    save_plain({"value": as_plain(value)}, tmp_path / "file", arrays=True)
    with numpy_arrays_allowed():
        assert is_same(load_plain(tmp_path / "file")["value"], plain)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "object"),
        ({1, 2}, "set"),
        (Colour.RED, "Colour"),
        (np.array([object()]), "ndarray"),
        (np.array(["text"]), "ndarray"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "ndarray"),
        (np.zeros(2, dtype=[("a", "f4")]), "ndarray"),
        (np.str_("text"), "str_"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "MaskedArray"),
        (np.asarray([[1.0]]).view(np.matrix), "matrix"),
        (nn.Parameter(torch.zeros(2)), "Parameter"),
        (torch.zeros(2).as_subclass(OwnTensor), "OwnTensor"),
        (nn.utils.rnn.pack_sequence([torch.zeros(2), torch.zeros(1)]), "PackedSequence"),
        (torch.float32, "dtype"),
        (torch.device("cpu"), "device"),
        (lambda: None, "function"),
        (int, "type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_values_are_refused_by_name_wherever_they_are(value, named):
    for nested in (value, [value], {"a": (1, value)}, Pair(1, value)):
        with pytest.raises(TypeError, match=f"a {named} is no plain value"):
            as_plain(nested)


def test_a_key_that_is_not_plain_is_refused():
    with pytest.raises(TypeError, match="a Colour is no plain value"):
        as_plain({Colour.RED: 1})


def test_an_array_in_a_mapped_file_is_refused_since_it_could_not_be_read_back(tmp_path):
    mapped = np.memmap(tmp_path / "mapped", dtype="f4", mode="w+", shape=(3,))
    with pytest.raises(TypeError, match="a memmap is no plain value"):
        as_plain({"x": mapped})
    assert is_same(as_plain(np.array(mapped)), np.zeros(3, dtype="f4"))


def test_a_view_takes_no_more_room_in_a_file_than_it_has_itself(tmp_path):
    everything = torch.arange(100_000.0)
    views = [everything[5:8], everything.view(10, -1)[:, :2], everything[:1].expand(50), torch.empty(0)]
    plain = as_plain(views)
    assert save_plain(plain, tmp_path / "file").size < 10_000
    assert is_same(load_plain(tmp_path / "file"), views)
    assert as_plain(everything) is everything


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_sparse_tensor_is_plain(tmp_path):
    sparse = torch.eye(3).to_sparse()
    save_plain(as_plain([sparse]), tmp_path / "file")
    assert torch.equal(load_plain(tmp_path / "file")[0].to_dense(), torch.eye(3))


def test_containers_are_new_and_their_tensors_the_same():
    inner = [TENSOR]
    plain = as_plain({"a": inner})
    assert plain["a"] is not inner
    assert plain["a"][0] is TENSOR
