"""Batches hold examples of about one length, every example once an epoch, and go on exactly after a resume."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers.trainer_pt_utils import get_length_grouped_indices

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.data.lengths import LengthGroupedSampler, find_lengths
from loopwright.errors import ArgumentError, DataError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 2)
        self.dropout = nn.Dropout(0.5)
        self.shapes = []

    def forward(self, input_ids, labels=None):
        self.shapes.append(tuple(input_ids.shape))
        return {"loss": self.dropout(self.table(input_ids)).mean()}


class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


LENGTHS = np.random.default_rng(0).integers(1, 60, 203)
ROWS = [{"input_ids": [1] * int(length), "labels": 0} for length in LENGTHS]


def pad(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    return {"input_ids": torch.tensor([[*row["input_ids"], *[0] * (longest - len(row["input_ids"]))] for row in rows])}


def build(directory, data=ROWS, callbacks=(), **options):
    torch.manual_seed(0)
    defaults = {
        "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 4, "num_train_epochs": 2,
        "logging_steps": 10, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    args = TrainingArguments(str(directory), **(defaults | options))
    return Trainer(Model(), args, data_collator=pad, train_dataset=data, callbacks=list(callbacks))


@pytest.mark.parametrize(("count", "size"), [(203, 4), (203, 1), (16, 4), (5, 8), (1, 3), (4000, 7)])
def test_order_is_that_of_transformers_for_the_same_generator(count, size):
    lengths = np.random.default_rng(count).permutation(count)
    sampler = LengthGroupedSampler(lengths, group_size=size, seed=3)
    sampler.set_epoch(2)
    expected = get_length_grouped_indices(lengths.tolist(), size, generator=torch.Generator().manual_seed(5))
    assert list(sampler) == expected


def test_every_example_comes_once_and_the_longest_first():
    order = list(LengthGroupedSampler(LENGTHS, group_size=4, seed=0))
    assert sorted(order) == list(range(203))
    assert LENGTHS[order[0]] == LENGTHS.max()
    assert not list(LengthGroupedSampler([], group_size=4, seed=0))


def test_less_is_padded_than_at_random(tmp_path):
    padded = {}
    for strategy in ("random", "group_by_length"):
        trainer = build(tmp_path, train_sampling_strategy=strategy, num_train_epochs=1)
        trainer.train()
        padded[strategy] = sum(rows * longest for rows, longest in trainer.model.shapes) - LENGTHS.sum()
    assert padded["group_by_length"] < 0.2 * padded["random"]


def test_column_entry_and_main_input_tell_the_lengths():
    columns = datasets.Dataset.from_list(ROWS)
    with_column = columns.add_column("size", LENGTHS.tolist())
    for found in (
        find_lengths(ROWS, "length", "input_ids"),
        find_lengths([{"size": int(length)} for length in LENGTHS], "size", "input_ids"),
        find_lengths(columns, "length", "input_ids"),
        find_lengths(with_column, "size", "text"),
        find_lengths(with_column.select(range(202, -1, -1)), "size", "input_ids")[::-1],
        find_lengths(columns.shuffle(seed=1), "length", "input_ids")[
            np.argsort(np.random.default_rng(1).permutation(203))
        ],
    ):
        assert np.array_equal(found, LENGTHS)


def test_length_column_is_used_though_the_model_does_not_take_it(tmp_path):
    data = datasets.Dataset.from_list(ROWS).add_column("size", (-LENGTHS).tolist())
    trainer = build(tmp_path, data, length_column_name="size", num_train_epochs=1)
    trainer.train()
    assert trainer.model.shapes[0][1] < 10  # the "longest" of all is first


@pytest.mark.parametrize("step", [7, 60])
def test_resumed_run_ends_like_an_unbroken_one(step, tmp_path):
    options = {"save_strategy": "steps", "save_steps": step}
    whole = build(tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", callbacks=[Stop()], **options).train()
    resumed = build(tmp_path / "parts", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.model.shapes == whole.model.shapes[step:]
    assert torch.equal(resumed.model.table.weight, whole.model.table.weight)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ([{"x": 1}], "found only x"),
        ([(1, 2)], "found a tuple"),
        ([{"input_ids": 5}], "found a int as 'input_ids'"),
        (datasets.Dataset.from_dict({"x": [1]}), "found only x"),
        (datasets.Dataset.from_dict({"input_ids": ["text"]}), "found string as 'input_ids'"),
        (datasets.Dataset.from_dict({"input_ids": [[1], None]}), "found 1 examples without a 'input_ids'"),
    ],
)
def test_length_that_can_not_be_known_is_an_error(data, found):
    with pytest.raises(DataError, match=rf"^train_sampling_strategy='group_by_length': can't tell .*{found}$"):
        find_lengths(data, "length", "input_ids")


def test_iterable_dataset_is_refused(tmp_path):
    trainer = build(tmp_path, Stream(), max_steps=3)
    with pytest.raises(ArgumentError, match=r"^train_sampling_strategy='group_by_length' with a Stream: expected"):
        trainer.train()
