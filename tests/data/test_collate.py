"""Batches of examples: equal to transformers' bit for bit, and a clear word where there can be none."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers

from loopwright.data.collate import ColumnDroppingCollator, default_data_collator
from loopwright.errors import ArgumentError, DataError


@dataclass
class _Example:
    input_ids: list[int]
    label: float


_ALIKE = {
    "whole labels": [{"label": 1, "x": 0.1}, {"label": 0, "x": 1e30}],
    "float labels": [{"label": 0.1}, {"label": 2}],
    "labels that are true or false": [{"label": True}, {"label": False}],
    "labels of NumPy": [{"label": np.int32(3)}, {"label": np.int32(4)}],
    "float labels of NumPy": [{"label": np.float64(0.1)}, {"label": np.float64(0.2)}],
    "several labels": [{"label": [0, 1]}, {"label": [1, 1]}],
    "label_ids": [{"label_ids": [1, -100, 3]}, {"label_ids": [4, 5, 6]}],
    "float label_ids": [{"label_ids": [0.5, 1]}, {"label_ids": [2, 3]}],
    "label before label_ids": [{"label_ids": [1, 2], "label": 7}, {"label_ids": [3, 4], "label": 8}],
    "label_ids where label is None": [{"label": None, "label_ids": [1, 2]}, {"label": None, "label_ids": [3, 4]}],
    "labels by that name": [{"labels": [1, 2]}, {"labels": [3, 4]}],
    "lists of integers": [{"input_ids": [1, 2, 3], "mask": [1, 1, 0]}, {"input_ids": [4, 5, 6], "mask": [1, 0, 0]}],
    "lists of lists": [{"x": [[1.1, 2.7], [3.3, 1e-40]]}, {"x": [[5.0, 6.0], [float("nan"), float("inf")]]}],
    "floats beyond float32": [{"x": 1e300}, {"x": -1e300}],
    "mixed numbers": [{"x": [1, 2.5], "y": [True, 2]}, {"x": [3, 4], "y": [0, 1]}],
    "booleans": [{"x": [True, False]}, {"x": [False, False]}],
    "complex numbers": [{"x": 1 + 2j}, {"x": 3 + 0j}],
    "numbers of NumPy": [{"x": np.float64(1.1), "y": np.int16(2)}, {"x": np.float64(1.2), "y": np.int16(3)}],
    "text and None": [{"text": "a", "none": None, "x": 1}, {"text": "b", "none": None, "x": 2}],
    "arrays": [{"x": np.arange(6, dtype=np.int16).reshape(2, 3)}, {"x": np.ones((2, 3), dtype=np.int16)}],
    "float arrays": [{"x": np.arange(3) / 3}, {"x": np.arange(3) / 7}],
    "empty lists": [{"x": []}, {"x": []}],
    "objects": [_Example([1, 2], 0.5), _Example([3, 4], 1.5)],
    "encodings": [transformers.BatchEncoding({"input_ids": [1, 2]}), transformers.BatchEncoding({"input_ids": [3, 4]})],
    "one example": [{"x": [1, 2], "label": 1}],
}
_ALIKE_TENSORS = {
    "tensors": [{"x": torch.ones(2, 3, dtype=torch.float16)}, {"x": torch.zeros(2, 3, dtype=torch.float16)}],
    "label tensors": [{"label": torch.tensor(1)}, {"label": torch.tensor(2)}],
    "float label tensors": [{"label": torch.tensor(0.1, dtype=torch.float64)}, {"label": torch.tensor(2.0)}],
    "label_ids tensors": [{"label_ids": torch.tensor([1, 2])}, {"label_ids": torch.tensor([3, 4])}],
    "keys in another order": [{"x": 1, "y": 2}, {"y": 3, "x": 4}],
}
_ALIKE_ARRAYS = {
    "label arrays": [{"label": np.array(1)}, {"label": np.array(2)}],
    "label_ids arrays": [{"label_ids": np.array([1, 2], dtype=np.int32)}, {"label_ids": np.array([3, 4])}],
}


@pytest.mark.parametrize("features", (_ALIKE | _ALIKE_TENSORS).values(), ids=(_ALIKE | _ALIKE_TENSORS).keys())
def test_tensors_are_those_of_transformers(features):
    ours = default_data_collator(features)
    theirs = transformers.default_data_collator(features)
    assert list(ours) == list(theirs)
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        assert torch.equal(torch.nan_to_num(ours[key], 123), torch.nan_to_num(tensor, 123))


@pytest.mark.parametrize("features", (_ALIKE | _ALIKE_ARRAYS).values(), ids=(_ALIKE | _ALIKE_ARRAYS).keys())
def test_arrays_are_those_of_transformers(features):
    ours = default_data_collator(features, return_tensors="np")
    theirs = transformers.default_data_collator(features, return_tensors="np")
    assert list(ours) == list(theirs)
    for key, array in theirs.items():
        assert ours[key].dtype == array.dtype
        np.testing.assert_array_equal(ours[key], array)


def test_floats_take_the_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        assert default_data_collator([{"x": 0.1}])["x"].item() == 0.1
    finally:
        torch.set_default_dtype(torch.float32)


def test_labels_of_any_kind_become_int64_or_float32():
    for label, kind in ((torch.tensor([3]), torch.int64), (np.array(3), torch.int64), (np.array(0.5), torch.float32)):
        assert default_data_collator([{"label": label}])["labels"].dtype == kind
    several = default_data_collator([{"label": torch.tensor([1, 0])}, {"label": torch.tensor([0, 1])}])
    assert several["labels"].tolist() == [[1, 0], [0, 1]]
    # transformers warns that a list of arrays is slow; stacking them is the same, and quick.
    assert default_data_collator([{"label_ids": np.array([1, 2])}])["labels"].dtype == torch.int64


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_lengths_that_differ_are_named_with_the_way_out(return_tensors):
    features = [{"x": 1, "input_ids": [1] * length} for length in (3, 5, 3)]
    with pytest.raises(DataError, match=r"'input_ids': its lengths differ \(3, 5, 3\).*DataCollatorWithPadding"):
        default_data_collator(features, return_tensors)


def test_shapes_that_differ_are_named():
    features = [{"image": torch.zeros(3, 8, 8)}, {"image": torch.zeros(1, 8, 8)}]
    with pytest.raises(DataError, match=r"'image': its shapes differ \(\(3, 8, 8\), \(1, 8, 8\)\).*data_collator="):
        default_data_collator(features)
    with pytest.raises(DataError, match=r"its lengths differ \(1, 2, 3, 4, 5, 6, 7, 8, \.\.\.\)"):
        default_data_collator([{"x": np.zeros(length)} for length in range(1, 11)])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "no examples"),
        ([(torch.ones(2), 1)], "examples of type tuple: expected mappings of names to values"),
        ([torch.ones(2)], "examples of type Tensor: expected mappings"),
        ([np.ones(2)], "examples of type ndarray: expected mappings"),
        ([{"x": 1, "y": 1}, {"x": 1}, {"y": 1}], "its first example has 'x', and number 2 lacks it"),
        ([{"x": {"a": 1}}], "'x', whose values are of type dict"),
        ([{"x": 1}, {"x": None}], "'x', whose values are of type int, NoneType"),
        ([{"x": b"abc"}], "'x', whose values are of type bytes"),
        ([{"x": 2**70}], "'x', whose values are of type int"),
        ([{"label": "positive"}], "'label', whose values are of type str.*Convert them to numbers"),
    ],
)
def test_what_makes_no_batch_is_said_with_its_name(features, message):
    with pytest.raises(DataError, match=message):
        default_data_collator(features)


def test_other_kinds_of_tensors_are_refused():
    with pytest.raises(ArgumentError, match='return_tensors=\'tf\': expected "pt" or "np"'):
        default_data_collator([{"x": 1}], return_tensors="tf")


def test_what_the_model_does_not_take_is_dropped_and_said_once(caplog):
    collate = ColumnDroppingCollator(list, ["x", "label"], description="training", model_name="Net")
    with caplog.at_level(logging.INFO, logger="loopwright"):
        for _ in range(2):
            assert collate([{"x": 1, "idx": 5}, {"label": 2, "text": "b"}]) == [{"x": 1}, {"label": 2}]
    assert len(caplog.records) == 1
    assert "training set: Net.forward takes no idx" in caplog.text


def test_examples_without_names_or_superfluous_ones_go_through_untouched():
    examples = [(1, 2), {"x": 1}, transformers.BatchEncoding({"x": 1})]
    collated = ColumnDroppingCollator(list, ["x", "label"])(examples)
    assert all(one is other for one, other in zip(collated, examples, strict=True))


def test_examples_of_which_nothing_is_left_are_an_error():
    collate = ColumnDroppingCollator(default_data_collator, ["input_ids", "labels"], model_name="Net")
    with pytest.raises(DataError, match=r"Net\.forward takes none of its columns\. It has image, text; the model"):
        collate([{"image": 1, "text": "a"}])


def test_the_dropping_collator_can_be_sent_to_workers():
    collate = pickle.loads(pickle.dumps(ColumnDroppingCollator(default_data_collator, ["x"])))
    assert collate([{"x": 1, "y": 2}])["x"].tolist() == [1]
