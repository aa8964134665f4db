"""What took a noticeable part of a training is told when it ends, and nothing else is."""

from __future__ import annotations

import pytest

from loopwright import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from loopwright.callbacks import costs
from loopwright.callbacks.costs import CostWatch
from loopwright.callbacks.dispatcher import CallbackHandler
from tests.parity.tiny import build


class Clock:
    """A clock that callbacks set on, for all that measure here."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for module in ("costs", "dispatcher"):
            monkeypatch.setattr(f"loopwright.callbacks.{module}.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def taking(clock, seconds, name="Histogram"):
    def on_step_end(self, args, state, control, **kwargs):
        clock.now += seconds

    return type(name, (TrainerCallback,), {"on_step_end": on_step_end})()


def fire(handler, tmp_path, times=1):
    for _ in range(times):
        handler.on_step_end(TrainingArguments(str(tmp_path)), TrainerState(), TrainerControl())


def make(*callbacks):
    return CallbackHandler(list(callbacks), None, None, None, None)


def test_the_dearest_is_told_first_with_its_share_of_the_time(clock, tmp_path):
    handler = make(taking(clock, 5.0, "Second"), taking(clock, 27.0, "First"), taking(clock, 0.1, "Cheap"))
    watch = CostWatch(handler)
    fire(handler, tmp_path, times=10)
    clock.now += 1599
    assert watch.noticeable() == ["First.on_step_end: 14 % of 32 min", "Second.on_step_end: 3 % of 32 min"]


@pytest.mark.parametrize(
    ("taken", "besides", "told"),
    [
        (0.99, 0.0, []),
        (1.01, 0.0, ["Histogram.on_step_end: 100 % of 1 s"]),
        (2.0, 98.5, []),
        (2.0, 97.5, ["Histogram.on_step_end: 2 % of 2 min"]),
        (60.0, 28.0, ["Histogram.on_step_end: 68 % of 88 s"]),
        (3600.0, 3600.0, ["Histogram.on_step_end: 50 % of 2.0 h"]),
    ],
)
def test_noticeable_is_more_than_two_per_cent_and_a_second(taken, besides, told, clock, tmp_path):
    handler = make(taking(clock, taken))
    watch = CostWatch(handler)
    fire(handler, tmp_path)
    clock.now += besides
    assert watch.noticeable() == told


def test_what_was_taken_before_does_not_count_and_who_comes_later_does(clock, tmp_path):
    early = taking(clock, 50.0, "Early")
    handler = make(early)
    fire(handler, tmp_path)
    watch = CostWatch(handler)
    assert watch.noticeable() == []
    handler.pop_callback(early)
    handler.add_callback(taking(clock, 4.0, "Late"))
    fire(handler, tmp_path)
    assert watch.noticeable() == ["Late.on_step_end: 100 % of 4 s"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_tells_it_however_it_ends(fails, monkeypatch, tmp_path, caplog):
    import loopwright

    class Histogram(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if fails and state.global_step == 9:
                raise ValueError("no")

    monkeypatch.setattr(costs, "NOTICEABLE_SECONDS", 0.0)
    monkeypatch.setattr(costs, "NOTICEABLE_SHARE", 0.0)
    trainer = build(loopwright, tmp_path, callbacks=[Histogram()], disable_tqdm=True)
    if fails:
        with pytest.raises(ValueError, match="no"):
            trainer.train()
    else:
        trainer.train()
    (said,) = [record for record in caplog.records if record.getMessage().startswith("Histogram.on_step_end: ")]
    assert said.levelname == "WARNING"
    assert said.getMessage().endswith((" s", " min"))
