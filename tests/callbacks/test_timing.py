"""Saves by the clock, and trainings that end before their time is used up."""

from __future__ import annotations

import itertools
import json
import time

import pytest
import torch
from torch import nn

from loopwright import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from loopwright.callbacks.persistence import capture_states, restore_states
from loopwright.callbacks.timing import TimeBudgetCallback, TimedSaveCallback, timing_callbacks
from loopwright.checkpoint import list_checkpoints, load_trainer_state
from loopwright.journal.reader import JournalReader
from loopwright.records import Status


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The time that the callbacks see, which passes only when told to."""

    class Module:
        monotonic = clock = Clock()

    monkeypatch.setattr("loopwright.callbacks.timing.time", Module)
    return Module.clock


class Steps:
    """Calls a callback as the loop does."""

    def __init__(self, callback, tmp_path, **arguments):
        self.callback, self.args = callback, TrainingArguments(str(tmp_path), **arguments)
        self.state = TrainerState()
        self.begin()

    def begin(self):
        self.control = TrainerControl()
        self.callback.on_train_begin(self.args, self.state, self.control)

    def step(self):
        self.state.global_step += 1
        self.control.should_save = False
        self.callback.on_step_end(self.args, self.state, self.control)
        return self.control

    def save(self):
        self.callback.on_save(self.args, self.state, self.control)


def test_a_save_is_asked_for_when_the_minutes_have_passed(clock, tmp_path):
    steps = Steps(TimedSaveCallback(2), tmp_path)
    asked = []
    for _ in range(9):
        clock.now += 50
        asked.append(steps.step().should_save)
    # At 150 s, then 150 s after that: the clock starts anew when it asks.
    assert asked == [False, False, True, False, False, True, False, False, True]


def test_whoever_saves_starts_the_clock_anew(clock, tmp_path):
    steps = Steps(TimedSaveCallback(1), tmp_path)
    clock.now += 50
    steps.save()
    clock.now += 50
    assert not steps.step().should_save
    clock.now += 10
    assert steps.step().should_save


def test_time_before_training_does_not_count_for_a_timed_save(clock, tmp_path):
    callback = TimedSaveCallback(1)
    clock.now += 1000
    steps = Steps(callback, tmp_path)
    clock.now += 59
    assert not steps.step().should_save


def budget(seconds):
    return TimeBudgetCallback(seconds / 3600)


def run_until_stopped(steps, clock, seconds):
    """Do steps that take so long each until the callback stops; return the time that they took."""
    began = clock.now
    for _ in range(1000):
        clock.now += seconds
        if steps.step().should_training_stop:
            return clock.now - began
    raise AssertionError("it never stopped")


def test_a_budget_stops_and_saves_before_a_further_step_and_a_save_could_exceed_it(clock, tmp_path):
    steps = Steps(budget(100), tmp_path)
    assert run_until_stopped(steps, clock, 10) == 80
    assert steps.control.should_save


def test_the_longest_step_so_far_is_the_margin(clock, tmp_path):
    steps = Steps(budget(100), tmp_path)
    for seconds in (1, 1, 20, 1):
        clock.now += seconds
        assert not steps.step().should_training_stop
    assert 23 + run_until_stopped(steps, clock, 1) == 60


def test_the_first_step_is_no_measure_of_those_that_follow(clock, tmp_path):
    steps = Steps(budget(100), tmp_path)
    clock.now += 45
    assert not steps.step().should_training_stop
    assert 45 + run_until_stopped(steps, clock, 1) == 98


def test_a_budget_asks_for_no_save_where_none_are_wanted(clock, tmp_path):
    steps = Steps(budget(100), tmp_path, save_strategy="no")
    run_until_stopped(steps, clock, 10)
    assert not steps.control.should_save


def test_a_budget_counts_the_time_of_earlier_attempts(clock, tmp_path):
    callback = budget(100)
    steps = Steps(callback, tmp_path)
    for _ in range(5):
        clock.now += 10
        assert not steps.step().should_training_stop
    saved = json.loads(json.dumps(capture_states([callback])))
    clock.now += 500  # until the next process
    resumed = budget(100)
    restore_states([resumed], saved, saved)
    assert resumed.seconds_used == 50
    clock.now += 500  # until training begins
    later = Steps.__new__(Steps)
    later.__dict__.update(callback=resumed, args=steps.args, state=TrainerState(global_step=5))
    later.begin()
    assert 50 + run_until_stopped(later, clock, 10) == 80


def test_a_new_training_has_the_whole_budget(clock, tmp_path):
    steps = Steps(budget(100), tmp_path)
    assert run_until_stopped(steps, clock, 10) == 80
    steps.state = TrainerState()
    clock.now += 500
    steps.begin()
    assert run_until_stopped(steps, clock, 10) == 80


def test_the_arguments_add_the_callbacks_that_they_ask_for(tmp_path):
    assert timing_callbacks(TrainingArguments(str(tmp_path))) == []
    saving, stopping = timing_callbacks(TrainingArguments(str(tmp_path), save_every_minutes=3, max_hours=0.5))
    assert (type(saving), saving.minutes) == (TimedSaveCallback, 3)
    assert (type(stopping), stopping.hours) == (TimeBudgetCallback, 0.5)


# Through a Trainer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x, labels=None):
        return {"loss": (self.layer(x) - labels).square().mean()}


class Sleep(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        time.sleep(0.02)


class Saves(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


def build(tmp_path, *callbacks, **arguments):
    torch.manual_seed(0)
    defaults = {"save_steps": 1000, "max_steps": 100, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    data = [{"x": torch.randn(2), "labels": torch.randn(1)} for _ in range(8000)]
    arguments = TrainingArguments(str(tmp_path), **(defaults | arguments))
    return Trainer(Model(), arguments, train_dataset=data, callbacks=[Sleep(), *callbacks])


@pytest.mark.parametrize("save_async", [False, True])
def test_max_hours_ends_a_training_with_a_checkpoint_and_says_who_ended_it(save_async, tmp_path):
    build(tmp_path / "warm", max_steps=2).train()  # the first optimizer of a process takes seconds
    trainer = build(tmp_path, max_hours=1 / 3600, max_steps=1000, save_async=save_async)
    began = time.monotonic()
    trainer.train()
    step = trainer.state.global_step
    assert 0 < step < 1000
    assert time.monotonic() - began < 10  # 1000 steps take 20 s
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    with JournalReader(tmp_path) as reader:
        attempt = reader.attempts()[-1]
    assert attempt.status is Status.STOPPED
    assert f"step {step}: TimeBudgetCallback" in attempt.reason
    saved = load_trainer_state(tmp_path / f"checkpoint-{step}").stateful_callbacks["TimeBudgetCallback"]
    assert saved["attributes"]["seconds_used"] >= 0.02 * step
    # The same script once more finds the budget used up; one with a larger budget goes on.
    again = build(tmp_path, max_hours=1 / 3600, max_steps=1000)
    again.train(resume_from_checkpoint=True)
    step = again.state.global_step
    assert step < 1000
    more = build(tmp_path, max_hours=1, max_steps=step + 5)
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == step + 5


def test_save_every_minutes_saves_by_the_clock_beside_the_steps_cadence(tmp_path):
    saves = Saves()
    trainer = build(tmp_path, saves, save_every_minutes=0.1 / 60, max_steps=30, save_steps=29)
    trainer.train()
    timed = [step for step in saves.steps if step < 29]
    assert saves.steps[-1] == 30
    assert 29 in saves.steps
    assert len(timed) >= 3  # 30 steps of 20 ms: about six, and more on a busy machine
    assert all(later - earlier <= 6 for earlier, later in itertools.pairwise(timed))
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in saves.steps]
