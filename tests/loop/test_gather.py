"""Outputs of a whole evaluation: equal to transformers', in linear time, and safe from memory that is used again."""

from __future__ import annotations

import gc
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import EvalLoopContainer

from loopwright.data.nesting import map_leaves
from loopwright.errors import DataError
from loopwright.loop.gather import OutputCollector
from loopwright.loop.growing import GrowingArray
from tests.trackers.disks import mount_small_disk

Pair = namedtuple("Pair", ["left", "right"])


def _ragged(dtype, *trailing):
    torch.manual_seed(0)
    return [(torch.randn(rows, width, *trailing) * 50).to(dtype) for rows, width in ((2, 3), (2, 5), (1, 2), (3, 5))]


def _even(dtype=torch.float32):
    torch.manual_seed(1)
    return [(torch.randn(rows, 4) * 50).to(dtype) for rows in (3, 3, 1)]


_ALIKE = {
    "one array": _even(),
    "float64": _even(torch.float64),
    "float16": _even(torch.float16),
    "bfloat16": _even(torch.bfloat16),
    "integers": _even(torch.int64),
    "one dimension": [torch.arange(3), torch.arange(2), torch.arange(1)],
    "scalars": [torch.tensor(1.5), torch.tensor(2.5), torch.tensor(3.5)],
    "one scalar": [torch.tensor(1.5)],
    "one batch": _even()[:1],
    "ragged": _ragged(torch.float32),
    "ragged with more dimensions": _ragged(torch.float32, 2, 3),
    "ragged bfloat16": _ragged(torch.bfloat16),
    "ragged float16": _ragged(torch.float16),
    "ragged integers": _ragged(torch.int64),
    "ragged booleans": _ragged(torch.bool),
    "types that differ": [torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64)],
    "tuples": list(zip(_even(), _ragged(torch.float32), strict=False)),
    "lists": [list(pair) for pair in zip(_even(), _ragged(torch.int64), strict=False)],
    "dicts": [{"a": one, "b": {"c": (two,)}} for one, two in zip(_even(), _ragged(torch.float32), strict=False)],
    "model outputs": [SequenceClassifierOutput(logits=one, hidden_states=(one,)) for one in _even()],
    "an empty batch": [torch.zeros(0, 4), torch.ones(2, 4)],
    "other orders of keys": [{"a": torch.ones(1), "b": torch.zeros(1)}, {"b": torch.ones(1), "a": torch.zeros(1)}],
}


def _assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _assert_same(one, other)
    else:
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("concatenate", [True, False])
@pytest.mark.parametrize("to_cpu_every", [None, 1, 2])
@pytest.mark.parametrize("batches", _ALIKE.values(), ids=_ALIKE.keys())
def test_arrays_are_those_of_transformers(batches, to_cpu_every, concatenate):
    ours = OutputCollector(concatenate=concatenate)
    theirs = EvalLoopContainer(concatenate, padding_index=-100)
    for number, batch in enumerate(batches, start=1):
        ours.add(batch)
        theirs.add(batch)
        if to_cpu_every is not None and number % to_cpu_every == 0:
            ours.to_cpu()
            theirs.to_cpu_and_numpy()
    _assert_same(ours.arrays(), theirs.get_arrays())


def test_unsigned_types_are_padded_as_torch_does():
    ours, theirs = OutputCollector(), EvalLoopContainer(True, padding_index=-100)
    for batch in _ragged(torch.uint8):
        ours.add(batch)
        theirs.add(batch)
    _assert_same(ours.arrays(), theirs.get_arrays())


@pytest.mark.parametrize("concatenate", [True, False])
def test_nothing_gathered_is_none(concatenate):
    collector = OutputCollector(concatenate=concatenate)
    collector.to_cpu()
    assert collector.arrays() is None


def test_arrays_can_be_asked_for_again_and_added_to():
    collector = OutputCollector()
    collector.add(torch.ones(2))
    collector.add(torch.zeros(1))
    first = collector.arrays()
    assert collector.arrays() is first
    collector.add(torch.ones(1))
    assert collector.arrays().tolist() == [1, 1, 0, 1]
    assert first.tolist() == [1, 1, 0]


@pytest.mark.parametrize("concatenate", [True, False])
def test_a_part_gives_back_each_batch_as_it_came(concatenate, tmp_path):
    added = [
        {"rows": np.full((2, 3), 1.5, np.float32), "pair": (np.float32(4), None)},
        {"rows": np.ones((1, 5), np.float64), "pair": (np.ones(2, np.float32), None)},
        {"rows": np.zeros((4, 1), np.float32), "pair": (np.float32(7), None)},
    ]
    collector = OutputCollector(concatenate=concatenate, is_part=True, directory=tmp_path)
    for batch in added:
        collector.add(map_leaves(batch, lambda leaf: None if leaf is None else np.asarray(leaf)))
    assert collector.num_batches == 3
    found = [*collector.batches(0, 2), *collector.batches(2, 9)]
    for batch, given in zip(found, added, strict=True):
        assert np.array_equal(batch["rows"], given["rows"])
        assert batch["rows"].shape == given["rows"].shape
        assert batch["pair"][1] is None
        assert batch["pair"][0].shape == np.shape(given["pair"][0])
        assert np.array_equal(batch["pair"][0], given["pair"][0])


def test_a_part_of_nothing_has_no_batches():
    collector = OutputCollector(is_part=True)
    assert (collector.num_batches, collector.num_bytes, collector.batches(0, 3)) == (0, 0, [])


@pytest.mark.parametrize("concatenate", [True, False])
def test_memory_that_the_next_batch_overwrites_is_not_shared(concatenate):
    buffer, array = torch.zeros(2, 2), np.zeros((2, 2))
    collector = OutputCollector(concatenate=concatenate)
    for value in (1, 2):
        collector.add((buffer.fill_(value), np.copyto(array, value) or array))
        collector.to_cpu()
    collected = collector.arrays()
    if not concatenate:
        collected = tuple(np.concatenate(column) for column in zip(*collected, strict=True))
    for column in collected:
        assert column.tolist() == [[1, 1], [1, 1], [2, 2], [2, 2]]


def test_a_slice_does_not_keep_the_whole_alive():
    collector = OutputCollector()
    collector.add(torch.zeros(1000, 1000)[:, :1])
    array = collector.arrays()
    assert array.shape == (1000, 1)
    while array.base is not None and isinstance(array.base, np.ndarray):
        array = array.base
    assert array.nbytes == 4000
    assert array.flags.c_contiguous


def test_outputs_that_want_gradients_or_are_none_or_named_are_taken():
    collector = OutputCollector()
    for _ in range(2):
        collector.add(Pair(torch.ones(1, requires_grad=True) * 2, None))
    collected = collector.arrays()
    assert type(collected) is Pair
    assert (collected.left.tolist(), collected.right) == ([2, 2], None)


@pytest.mark.parametrize("directory", [None, "here"])
@pytest.mark.parametrize(("num_rows", "most"), [(400, 1), (None, 10)])
def test_room_is_made_once_where_the_number_is_known_and_seldom_elsewhere(
    num_rows, most, directory, monkeypatch, tmp_path
):
    made = []
    reserve = GrowingArray._reserve
    monkeypatch.setattr(GrowingArray, "_reserve", lambda room, size: made.append(size) or reserve(room, size))
    collector = OutputCollector(num_rows=num_rows, directory=directory and tmp_path)
    for number in range(200):
        collector.add(torch.full((2, 3), number))
    assert len(made) <= most * (1 if directory is None else 3)
    assert collector.arrays()[:, 0].tolist() == [number for number in range(200) for _ in range(2)]
    assert list(tmp_path.iterdir()) == [], "the file has no name"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux")
@pytest.mark.parametrize("num_rows", [20_000, None])
@pytest.mark.parametrize("widths", [[1000], [990, 1000, 980]], ids=["even", "ragged"])
def test_memory_is_that_of_the_outputs_and_little_more(num_rows, widths):
    collector = OutputCollector(num_rows=num_rows)
    batches = [torch.ones(100, width) for width in widths]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = peak_megabytes()
    for number in range(200):
        collector.add(batches[number % len(batches)])
    assert collector.arrays().shape == (20_000, 1000)
    assert peak_megabytes() - before < 80 + 30


def peak_megabytes() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def test_ragged_rows_are_filled_up_also_where_there_are_many_and_more_come(tmp_path):
    collector, expected = OutputCollector(directory=tmp_path), []
    for part in range(2):
        for width in (3, 1, 5 + part):
            rows = torch.randn(1500, width)
            collector.add(rows)
            expected.append(rows)
        widest = max(rows.shape[1] for rows in expected)
        padded = [torch.nn.functional.pad(rows, (0, widest - rows.shape[1]), value=-100) for rows in expected]
        found = collector.arrays()
        assert np.array_equal(found, torch.cat(padded))
    assert found.base is not None


def test_full_or_missing_disk_is_an_error_that_names_the_argument(tmp_path, request):
    with pytest.raises(DataError, match=r"eval_spill_dir='.*/none': no file can be made there: No such file"):
        OutputCollector(directory=tmp_path / "none").add(torch.ones(1))
    mount_small_disk(request, tmp_path, "1m")
    collector = OutputCollector(directory=tmp_path)
    collector.add(torch.ones(1000))
    with pytest.raises(DataError, match=r"eval_spill_dir='.*' has no room for \d+ MB: No space left"):
        collector.add(torch.ones(300_000))


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, "outputs: .* a mapping of a, .* a mapping of b"),
        ({"a": torch.ones(1)}, torch.ones(1), r"a later one is of shape \(1,\)"),
        ((torch.ones(1),), (torch.ones(1), torch.ones(1)), "the first was a tuple of 1, a later one is a tuple of 2"),
        ({"a": [torch.ones(2, 2)]}, {"a": [torch.ones(2)]}, r"outputs\['a'\]\[0\]: the first was of shape \(2, 2\)"),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 4), r"of shape \(1, 2, 3\), a later one is of shape \(1, 2, 4\)"),
        ((torch.ones(1), None), (torch.ones(1), torch.ones(1)), r"outputs\[1\]: the first was None"),
    ],
)
def test_batches_of_another_form_are_an_error_at_once(first, later, message):
    collector = OutputCollector()
    collector.add(first)
    with pytest.raises(DataError, match=message):
        collector.add(later)
    separate = OutputCollector(concatenate=False)
    separate.add(first)
    separate.add(later)
    assert len(separate.arrays()) == 2


@pytest.mark.parametrize("thing", ["text", 1.5, object()])
def test_what_is_no_tensor_is_an_error_with_a_way_out(thing):
    with pytest.raises(DataError, match=f"of type {type(thing).__name__}.*ignore_keys="):
        OutputCollector().add((torch.ones(1), thing))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_outputs_leave_the_gpu_when_told():
    collector = OutputCollector()
    before = torch.cuda.memory_allocated()
    for _ in range(4):
        collector.add(torch.ones(1024, 1024, device="cuda", dtype=torch.bfloat16))
    assert torch.cuda.memory_allocated() - before >= 4 * 2 * 1024**2
    collector.to_cpu()
    assert torch.cuda.memory_allocated() == before
    assert collector.arrays().sum() == 4 * 1024**2
