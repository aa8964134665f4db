"""The order of examples: equal to transformers', a function of seed and epoch, and continued anywhere."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import transformers
from torch import nn

from loopwright.data.samplers import EpochSampler
from loopwright.errors import ArgumentError


class _Positions(torch.utils.data.Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"x": float(index)}


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"loss": (x * self.weight).mean()}


@pytest.mark.parametrize("data_seed", [None, 7])
def test_epochs_have_the_order_of_transformers(tmp_path, data_seed):
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, seed=3, data_seed=data_seed, per_device_train_batch_size=4, report_to=[]
    )
    args.dataloader_pin_memory = False
    trainer = transformers.Trainer(_Model(), args, train_dataset=_Positions(23))
    theirs = trainer.get_train_dataloader()
    ours = EpochSampler(23, seed=3 if data_seed is None else data_seed)
    for epoch in range(3):
        theirs.set_epoch(epoch)
        ours.set_epoch(epoch)
        assert [int(x) for batch in theirs for x in batch["x"]] == list(ours)


def test_order_depends_on_seed_and_epoch_not_on_history():
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    torch.rand(10)
    sampler.set_epoch(5)
    fifth = list(sampler)
    assert sorted(first) == sorted(fifth) == list(range(50))
    assert first != fifth
    fresh = EpochSampler(50, seed=1)
    fresh.set_epoch(5)
    assert list(fresh) == list(fresh) == fifth


def test_order_leaves_the_global_random_stream_alone():
    before = torch.get_rng_state()
    list(EpochSampler(50, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_order_of_many_examples_is_the_same_permutation():
    generator = torch.Generator().manual_seed(11)
    assert list(EpochSampler(150_001, seed=11)) == torch.randperm(150_001, generator=generator).tolist()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("position", [0, 1, 17, 49, 50])
def test_sampler_continues_where_it_stopped_once(shuffle, position):
    sampler = EpochSampler(50, seed=1, shuffle=shuffle)
    whole = list(sampler)
    sampler.skip(position)
    assert list(sampler) == whole[position:]
    assert list(sampler) == whole
    assert len(sampler) == 50


def test_skipping_costs_nothing_per_example():
    sampler = EpochSampler(10**15, seed=1, shuffle=False)
    sampler.skip(10**15 - 2)
    assert list(islice(sampler, 5)) == [10**15 - 2, 10**15 - 1]  # islice: list alone would make room for 10**15


def test_a_new_epoch_forgets_the_position():
    sampler = EpochSampler(5, seed=1, shuffle=False)
    sampler.skip(3)
    sampler.set_epoch(1)
    assert list(sampler) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("position", [-1, 6])
def test_a_position_outside_the_data_is_refused(position):
    with pytest.raises(ArgumentError, match=f"num_examples={position}: expected 0 to 5"):
        EpochSampler(5, seed=1).skip(position)


def test_an_iterator_that_is_never_read_leaves_the_position():
    sampler = EpochSampler(5, seed=1, shuffle=False)
    sampler.skip(3)
    iter(sampler)
    assert list(sampler) == [3, 4]
