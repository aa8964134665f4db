"""The default flow decides as transformers' does, at every step of every cadence."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import transformers

from loopwright.callbacks.flow import DefaultFlowCallback
from loopwright.state import CONTROL_FLAGS, TrainerControl, TrainerState

THEIRS = transformers.trainer_callback.DefaultFlowCallback
STRATEGIES = ("no", "steps", "epoch")


def decide(flow, event, args, state):
    control = TrainerControl()
    getattr(flow, event)(args, state, control)
    return {flag: getattr(control, flag) for flag in CONTROL_FLAGS}


@pytest.mark.parametrize("as_enum", [False, True])
@pytest.mark.parametrize("eval_delay", [0, 3, 1.5])
@pytest.mark.parametrize("logging_first_step", [False, True])
def test_it_sets_the_flags_that_transformers_sets(logging_first_step, eval_delay, as_enum):
    seen = set()
    for logging, evaluation, saving in itertools.product(STRATEGIES, STRATEGIES, (*STRATEGIES, "best")):
        args = SimpleNamespace(
            logging_first_step=logging_first_step,
            logging_strategy=transformers.IntervalStrategy(logging) if as_enum else logging,
            eval_strategy=transformers.IntervalStrategy(evaluation) if as_enum else evaluation,
            save_strategy=transformers.trainer_utils.SaveStrategy(saving) if as_enum else saving,
            eval_delay=eval_delay,
        )
        state = TrainerState(max_steps=7, logging_steps=2, eval_steps=3, save_steps=4)
        for state.global_step in range(1, 8):
            state.epoch = state.global_step / 2
            for event in ("on_step_end", "on_epoch_end"):
                ours, theirs = (decide(flow(), event, args, state) for flow in (DefaultFlowCallback, THEIRS))
                assert ours == theirs, (args, state.global_step, event)
                seen.add(tuple(ours.values()))
    assert len(seen) > 5


def test_save_steps_of_zero_save_at_the_end_alone():
    args = SimpleNamespace(
        logging_first_step=False, logging_strategy="no", eval_strategy="no", save_strategy="steps", eval_delay=0
    )
    state = TrainerState(max_steps=3, save_steps=0)
    saves = [
        decide(DefaultFlowCallback(), "on_step_end", args, state)["should_save"] for state.global_step in (1, 2, 3)
    ]
    assert saves == [False, False, True]


def test_a_flag_that_is_set_stays_set():
    args = SimpleNamespace(
        logging_first_step=False, logging_strategy="no", eval_strategy="no", save_strategy="no", eval_delay=0
    )
    control = TrainerControl(*[True] * 5)
    DefaultFlowCallback().on_step_end(args, TrainerState(global_step=1, max_steps=3), control)
    DefaultFlowCallback().on_epoch_end(args, TrainerState(global_step=1, max_steps=3), control)
    assert control == TrainerControl(*[True] * 5)
