"""Log lines on standard output."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import transformers

from loopwright.callbacks.printer import PrinterCallback, readable
from loopwright.state import TrainerControl, TrainerState

LOGS = {"loss": 0.123456, "learning_rate": 5e-05, "epoch": 1.0, "step": 12, "note": "x", "total_flos": 1e9}


def emit(kind, logs, **state):
    kind().on_log(None, TrainerState(**state), TrainerControl(), logs=logs)


@pytest.mark.parametrize("logs", [LOGS, {"loss": float("nan"), "big": 123456.0}, {}])
def test_it_prints_what_transformers_prints(logs, capsys):
    emit(transformers.PrinterCallback, dict(logs))
    theirs = capsys.readouterr().out
    emit(PrinterCallback, logs)
    assert capsys.readouterr().out == theirs
    assert theirs


def test_the_log_line_itself_keeps_every_key(capsys):
    logs = dict(LOGS)
    emit(PrinterCallback, logs)
    assert logs == LOGS
    assert "total_flos" not in capsys.readouterr().out


def test_only_the_first_process_of_a_machine_prints(capsys):
    emit(PrinterCallback, LOGS, is_local_process_zero=False)
    emit(PrinterCallback, None)
    assert capsys.readouterr().out == ""


def test_numbers_are_shown_to_four_digits_and_the_rest_as_it_is():
    shown = readable({"a": np.float64(1 / 3), "b": 123456.7, "c": 3, "d": "text", "e": True, "f": None})
    assert shown == {"a": "0.3333", "b": "1.235e+05", "c": 3, "d": "text", "e": True, "f": None}


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Broken, closed, lambda: None])
def test_a_terminal_that_has_gone_away_stops_nothing(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream())
    emit(PrinterCallback, LOGS)


def test_characters_that_the_terminal_has_not_got_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    emit(PrinterCallback, {"note": "größe"})
    assert raw.getvalue() == rb"{'note': 'gr\xf6\xdfe'}" + b"\n"
