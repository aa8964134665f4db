"""What a model's forward takes, found as transformers finds it, and columns dropped by it."""

from __future__ import annotations

import logging

import datasets
import pytest
import torch
import transformers
from torch import nn
from transformers.utils.generic import can_return_loss as their_can_return_loss
from transformers.utils.generic import find_labels

from loopwright.data.columns import (
    can_return_loss,
    drop_unused_columns,
    find_label_names,
    inner_model,
    is_column_dataset,
    signature_columns,
)
from loopwright.errors import DataError


class _Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"loss": self.weight.sum()}


class _WithKwargs(_Plain):
    def forward(self, input_ids, labels=None, **kwargs):
        return super().forward(input_ids)


class _OnlyKwargs(_Plain):
    def forward(self, **kwargs):
        return super().forward(None)


class _ForQuestionAnswering(_Plain):
    def forward(self, input_ids, start_positions=None, end_positions=None):
        return super().forward(input_ids)


class _Contrastive(_Plain):
    def forward(self, input_ids, label_weights=None, return_loss=True):
        return super().forward(input_ids)


class _NotContrastive(_Plain):
    def forward(self, input_ids, return_loss=None):
        return super().forward(input_ids)


class _Adapted(nn.Module):
    """Stands for a PEFT model, by the one method that counts."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def get_base_model(self):
        return self.base

    def forward(self, *args, **kwargs):
        return self.base(*args, **kwargs)


_MODELS = [_Plain, _WithKwargs, _OnlyKwargs, _ForQuestionAnswering, _Contrastive, _NotContrastive]


@pytest.mark.parametrize("model_class", _MODELS)
def test_columns_are_those_that_transformers_keeps(model_class, tmp_path):
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    theirs = transformers.Trainer(model_class(), args)
    theirs._set_signature_columns_if_needed()
    ours = signature_columns(model_class(), find_label_names(model_class))
    assert set(ours) == set(theirs._signature_columns)
    assert len(ours) == len(set(ours))


@pytest.mark.parametrize(
    "model_class",
    [
        *_MODELS,
        nn.Module,
        transformers.BertForQuestionAnswering,
        transformers.BertForSequenceClassification,
        transformers.BertModel,
        transformers.CLIPModel,
    ],
)
def test_labels_and_losses_are_found_as_transformers_finds_them(model_class):
    assert find_label_names(model_class) == find_labels(model_class)
    assert can_return_loss(model_class) == their_can_return_loss(model_class)


def test_a_loss_by_default_is_one_that_can_be_returned():
    assert can_return_loss(_Contrastive)
    assert not can_return_loss(_NotContrastive)


def test_further_label_names_are_kept_once():
    assert signature_columns(_Plain(), ["labels", "spans"]) == [
        "input_ids", "attention_mask", "labels", "label", "label_ids", "spans",
    ]  # fmt: skip


def test_compiled_and_adapted_models_are_looked_into():
    model = _Plain()
    compiled, adapted = (torch.compile(module, backend="eager") for module in (model, _Adapted(model)))
    for wrapped in (model, compiled, _Adapted(model), adapted):
        assert inner_model(wrapped) is model
        assert signature_columns(wrapped, ["labels"]) == signature_columns(model, ["labels"])


def _table():
    return datasets.Dataset.from_dict({"input_ids": [[1]], "label": [0], "text": ["a"], "idx": [3]})


def test_columns_that_the_model_does_not_take_are_dropped_and_said(caplog):
    with caplog.at_level(logging.INFO, logger="loopwright"):
        kept = drop_unused_columns(_table(), ["input_ids", "label"], "training", model_name="Net")
    assert kept.column_names == ["input_ids", "label"]
    assert "training set: Net.forward takes no text, idx" in caplog.text


def test_a_dataset_with_nothing_to_drop_is_handed_back(caplog):
    table = _table()
    with caplog.at_level(logging.INFO, logger="loopwright"):
        assert drop_unused_columns(table, table.column_names, "training") is table
    assert not caplog.records


def test_a_dataset_of_which_nothing_is_left_is_an_error():
    with pytest.raises(DataError, match=r"takes none of its columns\. It has input_ids.*idx; .*=False"):
        drop_unused_columns(_table(), ["pixel_values"], "training", model_name="Net")


def test_only_tables_have_columns_to_drop():
    assert is_column_dataset(_table())
    for other in (_table().to_iterable_dataset(), [{"x": 1}], None):
        assert not is_column_dataset(other)
        assert drop_unused_columns(other, ["input_ids"], "training") is other
