"""Where a training's time went is in its journal: at each save, and at its end, however that comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import loopwright
from loopwright import TrainerCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.report.reading import read_run
from tests.parity.tiny import Tiny, build, data

PAUSE = 0.05


class Slow(TrainerCallback):
    def __init__(self, event):
        setattr(self, event, lambda args, state, control, **kwargs: time.sleep(PAUSE))


class SlowModel(Tiny):
    def forward(self, x, labels=None):
        if self.training:
            time.sleep(PAUSE)
        return super().forward(x, labels)


def records_of(directory):
    with JournalReader(directory) as reader:
        return reader.records(kinds=[Kind.COSTS])


def train(directory, **options):
    trainer = build(loopwright, directory, disable_tqdm=True, **options)
    trainer.train()
    trainer.reporting.close()
    return read_run(directory).costs


@pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log", "on_save"])
def test_time_of_a_callback_is_its_own_and_no_other_part_has_it(event, tmp_path):
    costs = train(tmp_path, callbacks=[Slow(event)])
    (cost,) = [one for one in costs.callbacks if one.callback == "Slow"]
    assert (cost.event, cost.calls >= 3) == (event, True)
    assert cost.seconds >= PAUSE * cost.calls
    rest = sum(seconds for name, seconds in costs.parts.items() if name != "callbacks")
    assert costs.parts["callbacks"] >= cost.seconds
    assert costs.total >= sum(costs.parts.values())
    assert rest <= costs.total - cost.seconds


def test_forward_and_data_are_told_apart(tmp_path):
    trainer = build(loopwright, tmp_path, disable_tqdm=True)
    trainer.model = trainer.model_wrapped = SlowModel()
    trainer.train()
    parts = read_run(tmp_path).costs.parts
    assert parts["forward_backward"] >= 9 * PAUSE
    assert all(parts[name] < parts["forward_backward"] for name in ("data", "optimizer"))


def test_waiting_for_batches_is_data(tmp_path):
    class SlowRows(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            time.sleep(PAUSE / 4)
            return data()[index]

    trainer = build(loopwright, tmp_path, disable_tqdm=True, num_train_epochs=1)
    trainer.train_dataset = SlowRows()
    trainer.train()
    assert read_run(tmp_path).costs.parts["data"] >= 3 * PAUSE


def test_account_is_taken_at_each_save_and_at_the_end(tmp_path):
    train(tmp_path)
    found = records_of(tmp_path)
    assert [record.step for record in found] == [3, 6, 9, 9]
    totals = [record.values["total"] for record in found]
    assert totals == sorted(totals)
    assert set(found[-1].values["parts"]) == {
        "data", "forward_backward", "optimizer", "callbacks", "logging", "evaluation", "saving",
    }  # fmt: skip
    assert all(found[-1].values["parts"][name] > 0 for name in ("evaluation", "saving", "logging", "data"))


def test_account_of_a_failed_training_is_there(tmp_path):
    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        train(tmp_path, callbacks=[Fails()])
    assert [record.step for record in records_of(tmp_path)] == [3, 5]


def test_account_of_a_killed_training_is_that_of_its_last_save_and_attempts_add_up(tmp_path):
    if os.name == "nt":
        pytest.skip("no SIGKILL")
    program = Path(__file__).parents[1] / "report" / "train_and_die.py"
    for step, status in ((5, -signal.SIGKILL), (0, 0)):
        command = [sys.executable, program, tmp_path, str(step)]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert finished.returncode == status, finished.stderr
    found = records_of(tmp_path)
    first, second = ([one for one in found if one.attempt == number] for number in (1, 2))
    assert [one.step for one in first] == [3]
    assert second[0].step == 6
    total = first[-1].values["total"] + second[-1].values["total"]
    assert read_run(tmp_path).costs.total == pytest.approx(total)


def test_second_of_a_class_has_its_number(tmp_path):
    callbacks = [Slow("on_save"), Slow("on_save")]
    costs = train(tmp_path, callbacks=callbacks)
    assert {one.callback for one in costs.callbacks if one.callback.startswith("Slow")} == {"Slow", "Slow 2"}
