"""Log lines whose numbers arrive later: each under its own step, none lost, none out of order."""

import json
import math

import pytest
import torch

import loopwright
from loopwright import TrainerCallback
from loopwright.journal.reader import JournalReader
from loopwright.loop import lines
from loopwright.loop.report import LossWindow
from loopwright.records import Kind
from tests.parity.tiny import build

VOLATILE = ("runtime", "per_second")


class Heard(TrainerCallback):
    """Notes at which step each event came, and what the line of a log says."""

    def __init__(self):
        self.events = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.events.append(("log", state.global_step, logs.get("loss")))

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append(("step", state.global_step, None))


class StopAt(TrainerCallback):
    """Raises at the end of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def late(monkeypatch):
    """Let numbers need three looks until they have arrived, as on an accelerator that is behind."""

    class Late(lines.Arrival):
        def __init__(self, tensors):
            super().__init__(tensors)
            self.looks = 0

        def is_there(self):
            self.looks += 1
            return self.looks > 3

    monkeypatch.setattr(lines, "Arrival", Late)


def make(path, callbacks=(), **options):
    defaults = {"max_steps": 12, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    return build(loopwright, path, callbacks=list(callbacks), **{**defaults, **options})


def train(path, callbacks=(), **options):
    trainer = make(path, callbacks, **options)
    trainer.train()
    return trainer


def steady(history):
    return [{key: value for key, value in line.items() if not key.endswith(VOLATILE)} for line in history]


@pytest.mark.usefixtures("late")
def test_lines_come_later_and_say_the_same(tmp_path):
    heard = Heard()
    at_once = train(tmp_path / "a")
    later = train(tmp_path / "b", [heard], logging_async=True)
    assert steady(later.state.log_history) == steady(at_once.state.log_history)
    first_line = next(number for number, event in enumerate(heard.events) if event[0] == "log")
    assert heard.events[first_line - 1][:2] == ("step", 4)
    assert heard.events[first_line][:2] == ("log", 1)


@pytest.mark.usefixtures("late")
def test_journal_has_each_under_its_own_step(tmp_path):
    trainer = train(tmp_path, logging_async=True)
    trainer.reporting.close()
    with JournalReader(tmp_path) as reader:
        records = reader.records(trainer.run_id, kinds=[Kind.LOG])
    found = {record.step: record.values["loss"] for record in records if "loss" in record.values}
    assert found == {line["step"]: line["loss"] for line in trainer.state.log_history if "loss" in line}
    assert list(found) == list(range(1, 13))


@pytest.mark.usefixtures("late")
def test_evaluation_and_save_wait_for_the_lines_before(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
    trainer = train(tmp_path, logging_async=True, **options)
    steps = [line["step"] for line in trainer.state.log_history]
    assert steps == sorted(steps)
    saved = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert [line["step"] for line in saved["log_history"]] == [1, 2, 3, 4, 5, 5]


@pytest.mark.usefixtures("late")
def test_resumed_run_is_the_run(tmp_path):
    options = {"logging_async": True, "save_strategy": "steps", "save_steps": 5}
    whole = train(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", [StopAt(7)], **options)
    again = make(tmp_path / "broken", **options)
    again.train(resume_from_checkpoint="auto")
    assert steady(again.state.log_history) == steady(whole.state.log_history)


@pytest.mark.usefixtures("late")
def test_exception_loses_no_line(tmp_path):
    trainer = make(tmp_path, [StopAt(7)], logging_async=True)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [line["step"] for line in trainer.state.log_history] == [1, 2, 3, 4, 5, 6]


def test_numbers_that_never_arrive_hide_no_exception(tmp_path, monkeypatch, caplog):
    def gone(self):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(lines.Arrival, "is_there", lambda self: False)
    monkeypatch.setattr(lines.Arrival, "numbers", gone)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [StopAt(7)], logging_async=True)
    assert "6 log lines are lost after KeyboardInterrupt: RuntimeError: the device is gone" in caplog.text


@pytest.mark.usefixtures("late")
def test_state_is_put_back_where_a_callback_raises(tmp_path):
    class Raises(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            raise ValueError(f"at {state.global_step}")

    trainer = make(tmp_path, [Raises()], logging_async=True)
    with pytest.raises(ValueError, match="at 1"):
        trainer.train()
    assert trainer.state.global_step == 4


def test_sums_on_a_device_are_those_of_a_window_at_once():
    # What an accelerator's window does with its tensors, on tensors of the CPU.
    window, plain = (LossWindow(torch.device("cpu"), only_finite=True) for _ in range(2))
    window._on_device = torch.zeros(2, dtype=torch.float64)
    for loss in (1.0, math.nan, 3.0):
        window.add(torch.tensor(loss))
        plain.add(torch.tensor(loss))
    interval = window.begin_next()
    window.add(torch.tensor(100.0))
    interval.settle(lines.Arrival([interval.on_device]).numbers())
    assert window.take(interval) == plain.take(plain.begin_next()) == {"loss": 2.0, "nonfinite_steps": 1}
    assert window.take(window.begin_next()) == {"loss": 100.0}
    assert window.overall()["train_loss"] == pytest.approx(104 / 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_device(tmp_path):
    class Strict(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            torch.cuda.set_sync_debug_mode("error" if state.global_step >= 2 else "default")

        def on_train_end(self, args, state, control, **kwargs):
            torch.cuda.set_sync_debug_mode("default")

    try:
        trainer = train(tmp_path, [Strict()], logging_async=True, use_cpu=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(trainer.state.log_history) == 13
