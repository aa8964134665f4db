"""The text of a long log history is made once, and is always that of the history as it is now."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from loopwright import TrainerState
from loopwright.checkpoint import history
from loopwright.checkpoint.history import HistoryText


@pytest.fixture
def encoded(monkeypatch):
    """How many lines were encoded in each call, the newest last."""
    counts: list[int] = []
    encode = history.encode_lines
    monkeypatch.setattr(history, "encode_lines", lambda lines: (counts.append(len(lines)), encode(lines))[1])
    return counts


def lines(count, begin=0):
    return [{"loss": 0.5 + step, "note": f"at {step}", "step": step} for step in range(begin, begin + count)]


def check(text, log_history):
    """Assert that `text` makes a state's JSON what it is without, and return that."""
    state = TrainerState(log_history=log_history)
    found = state.to_json(text.text_of)
    assert found == state.to_json()
    return json.loads(found)


def test_a_save_encodes_what_has_come_since(encoded):
    text, log = HistoryText(), lines(2500)
    check(text, log)
    assert encoded == [1000, 1000, 500]
    encoded.clear()
    log += lines(700, 2500)
    check(text, log)
    assert encoded == [1000, 200]
    encoded.clear()
    check(text, [dict(line) for line in log])  # as a save beside the training takes them
    assert encoded == [200]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000])
def test_every_length_is_as_without(count):
    text = HistoryText()
    assert len(check(text, lines(count))["log_history"]) == count
    assert len(check(text, lines(count))["log_history"]) == count


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.update(loss=7.0),
        lambda line: line.update(loss=float(line["loss"]) * 1.0),  # equal, and another object
        lambda line: line.update(step=True),
        lambda line: line.update(added=1),
        lambda line: line.pop("note"),
        lambda line: line.update(renamed=line.pop("note")),
        lambda line: line.update(loss=math.nan),
    ],
)
def test_a_line_that_was_changed_since_is_encoded_anew(change, encoded):
    text, log = HistoryText(), lines(3000)
    log[1] = {"loss": 1.0, "note": "one", "step": 1}
    check(text, log)
    encoded.clear()
    change(log[1500])
    change(log[1])
    check(text, log)
    check(text, log)
    assert sum(encoded) <= 2000


def test_what_is_cut_off_exchanged_or_moved_is_seen():
    text, log = HistoryText(), lines(4000)
    check(text, log)
    check(text, log[:1500])
    check(text, log[:1500] + lines(2500, 9000))
    check(text, log[1:])
    check(text, log[1000:])
    log[0], log[1] = log[1], log[0]
    check(text, log)


def test_values_between_lines_are_told_apart():
    text, value = HistoryText(), "a"
    one = [{"a": value} for _ in range(1000)]
    check(text, one)
    one[3], one[4] = {}, {"a": value, "b": value}
    check(text, one)


@pytest.mark.parametrize("value", [[1.0], {"deep": 1.0}, np.float64(2.5), np.zeros(())])
def test_what_can_change_inside_is_encoded_each_time_and_nothing_else_is(value, encoded):
    text, log = HistoryText(), lines(3000)
    log[1200]["value"] = value
    check(text, log)
    encoded.clear()
    if isinstance(value, list):
        value[0] = 2.0
    elif isinstance(value, dict):
        value["deep"] = 2.0
    found = check(text, log)
    assert encoded == [1000]
    if isinstance(value, list | dict):
        assert found["log_history"][1200]["value"] in ([2.0], {"deep": 2.0})


def test_a_training_hands_the_same_one_to_all_its_saves(tmp_path, monkeypatch, encoded):
    import loopwright
    from tests.parity.tiny import build

    monkeypatch.setattr(history, "_LINES_AT_ONCE", 2)
    trainer = build(loopwright, tmp_path, save_strategy="steps", save_steps=3, logging_steps=1, disable_tqdm=True)
    trainer.train()
    saved = json.loads((tmp_path / "checkpoint-9" / "trainer_state.json").read_text())
    assert saved["log_history"] == trainer.state.log_history[: len(saved["log_history"])]
    # Each pair once, and at each save what was left over.
    assert sum(count for count in encoded if count == 2) <= len(saved["log_history"])
    assert len(encoded) <= len(saved["log_history"]) // 2 + 3
