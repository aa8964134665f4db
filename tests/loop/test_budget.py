"""What a step, a log line and an event execute of ours stays within a budget: counted, so that it is no matter of luck.

budget.json holds the number of bytecode instructions, which are the same on every machine with one version of Python.
Who makes something cheaper lowers the number; who makes it dearer says in the commit why that is worth it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import loopwright
from loopwright import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from loopwright.callbacks.dispatcher import CallbackHandler
from tests.opcodes import OpcodeCounter
from tests.parity.tiny import build, data

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BUDGET = json.loads(Path(__file__).with_name("budget.json").read_text()).get(VERSION)
pytestmark = pytest.mark.skipif(
    BUDGET is None, reason=f"no budget for Python {VERSION}: counts differ between versions"
)


class Marks(TrainerCallback):
    """Notes the count at each of an event's calls."""

    def __init__(self, counter, event):
        self.counter = counter
        self.marks = []
        setattr(self, event, self._mark)

    def _mark(self, args, state, control, **kwargs):
        self.marks.append((state.global_step, self.counter.count))

    def costs(self):
        """Return the count between each call and the next, by the step at the first."""
        return {step: after - before for (step, before), (_, after) in zip(self.marks, self.marks[1:], strict=False)}


def within(name, count):
    allowed = BUDGET[name]
    assert count <= allowed, f"{name}: {count} instructions, allowed are {allowed}"
    assert count >= 0.9 * allowed, f"{name}: {count} instructions, so budget.json may say that instead of {allowed}"


def steps(tmp_path, **options):
    """Train for 40 steps with all that is on by default, and return what each executed."""
    with OpcodeCounter() as counter:
        marks = Marks(counter, "on_step_begin")
        options = {"max_steps": 40, "logging_steps": 10, "eval_strategy": "no", "save_strategy": "no"} | options
        build(loopwright, tmp_path, callbacks=[marks], **options).train()
    return marks.costs()


def logs_after(step):
    return step % 10 == 9


# Some steps do more: the journal's thread is told to write, the bar is drawn. The least is what all of them do.


def test_a_step(tmp_path):
    found = steps(tmp_path)
    within("step", min(count for step, count in found.items() if not logs_after(step)))


def test_a_step_of_four_micro_batches(tmp_path):
    found = steps(tmp_path, gradient_accumulation_steps=4, per_device_train_batch_size=1)
    within("step of 4 micro-batches", min(count for step, count in found.items() if not logs_after(step)))


def test_a_step_with_its_log_line(tmp_path):
    found = steps(tmp_path)
    within("step with a log line", min(count for step, count in found.items() if logs_after(step)))


def test_a_batch_of_an_evaluation(tmp_path):
    with OpcodeCounter() as counter:
        marks = Marks(counter, "on_prediction_step")
        trainer = build(loopwright, tmp_path, callbacks=[marks], per_device_eval_batch_size=2)
        trainer.evaluate(data(60))
    found = [after - before for (_, before), (_, after) in zip(marks.marks, marks.marks[1:], strict=False)]
    within("batch of an evaluation", min(found))


@pytest.mark.parametrize("num_listening", [0, 1, 10])
def test_an_event(num_listening, tmp_path):
    class Listens(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            self.was_called = True

    args, state, control = TrainingArguments(str(tmp_path)), TrainerState(), TrainerControl()
    handler = CallbackHandler([Listens() for _ in range(num_listening)], None, None, None, None)
    with OpcodeCounter() as counter:
        handler.on_substep_end(args, state, control)
    within(f"event that {num_listening} answer", counter.count)
