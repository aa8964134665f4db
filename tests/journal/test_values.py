from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.journal.values import decode, encode, storable
from loopwright.records import Kind, Run, Status

KEPT = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "shortest float": 0.1 + 0.2,
    "smallest float": 5e-324,
    "largest float": 1.7976931348623157e308,
    "minus zero": -0.0,
    "beyond 2**53": 2**53 + 1,
    "beyond 2**64": -(10**40) - 1,
    "true": True,
    "none": None,
    "empty": "",
    "not ascii": "größer 漢字 🙂",
    "lone surrogate": "file\udcff",
    "control characters": 'a\x00b\n"\\\u2028',
    "nested": {"a": {"b": [1, math.nan, {"c": None}], "": -math.inf}},
    "empty ones": [{}, []],
}

CHANGED = {
    "numpy float": (np.float32(0.1), 0.10000000149011612),
    "numpy nan": (np.float32(math.nan), math.nan),
    "numpy double": (np.float64(0.1), 0.1),
    "numpy int": (np.int64(2**62 + 1), 2**62 + 1),
    "numpy bool": (np.bool_(True), True),
    "numpy 0-d": (np.array(3.5), 3.5),
    "tensor": (torch.tensor(0.1), 0.10000000149011612),
    "bfloat16": (torch.tensor(0.1, dtype=torch.bfloat16), 0.10009765625),
    "nan tensor": (torch.tensor(math.nan, dtype=torch.float16), math.nan),
    "int tensor": (torch.tensor(2**62 + 1), 2**62 + 1),
    "tensor with gradient": (torch.tensor(2.0, requires_grad=True) * 2, 4.0),
    "set": ({3, 1, 2}, [1, 2, 3]),
    "frozen set": (frozenset({"b", "a"}), ["a", "b"]),
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "mapping": (MappingProxyType({"a": np.float32(0.5)}), {"a": 0.5}),
    "enum": (Status.KILLED, "killed"),
    "keys that are numbers": ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
}


class _Broken:
    def item(self) -> float:
        raise RuntimeError("device lost")


_circle: list[Any] = []
_circle.append(_circle)

REFUSED = {
    "object": object(),
    "complex": 1j,
    "bytes": b"raw",
    "array": np.arange(3),
    "matrix": torch.ones(2, 2),
    "meta tensor": torch.tensor(1.0, device="meta"),
    "circle": _circle,
    "too many digits": 10**5000,
    "broken": _Broken(),
    "deep inside": {"a": [{"b": object()}]},
    "key": {(1, 2): 3},
}


def _is_equal(found: Any, expected: Any) -> bool:
    # The repr tells 1 from 1.0 and True, 0.0 from -0.0, and says "nan" of a NaN.
    return repr(found) == repr(expected)


def test_every_value_that_json_knows_comes_back_the_same() -> None:
    text, left_out = encode(KEPT)
    assert _is_equal(decode(text), KEPT)
    assert left_out == []


@pytest.mark.parametrize("name", CHANGED)
def test_numbers_of_other_libraries_and_collections_become_plain_ones(name: str) -> None:
    value, plain = CHANGED[name]
    text, left_out = encode({"it": value, "list": [value]})
    assert _is_equal(decode(text), {"it": plain, "list": [plain]})
    assert left_out == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_is_left_out_and_named_and_the_rest_stays(name: str) -> None:
    text, left_out = encode({"before": math.nan, name: REFUSED[name], "after": "\udcff"})
    assert _is_equal(decode(text), {"before": math.nan, "after": "\udcff"})
    assert left_out == [f"{name!r} ({type(REFUSED[name]).__name__})"]


def test_a_key_that_is_no_text_becomes_text() -> None:
    text, left_out = encode({("a", 1): 1.0, 2: 2.0})  # type: ignore[dict-item]
    assert decode(text) == {"('a', 1)": 1.0, "2": 2.0}
    assert left_out == []


def test_text_that_utf8_can_not_hold_is_spelled_out() -> None:
    assert storable("größer 漢字") == "größer 漢字"
    assert storable("file\udcff") == "file\\udcff"
    assert storable(None) is None


def test_either_journal_gives_all_of_them_back(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: Callable[..., Recorder]
) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    recorder.record(Kind.LOG, 1, KEPT | {name: value for name, (value, _) in CHANGED.items()} | {"refused": 1j})
    recorder.record(Kind.LOG, 2, {f"key {value}": 1.0 for value in KEPT.values() if isinstance(value, str)})
    expected = KEPT | {name: plain for name, (_, plain) in CHANGED.items()}
    with JournalReader(tmp_path) as reader:
        first, second = reader.records()
        assert reader.path.suffix == {"sqlite": ".db", "lines": ".jsonl"}[journal_kind]
    assert _is_equal(first.values, expected)
    assert list(second.values) == [f"key {value}" for value in KEPT.values() if isinstance(value, str)]


def test_what_is_left_out_is_said_once(
    run: Run, make_recorder: Callable[..., Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    for step in range(3):
        recorder.record(Kind.LOG, step, {"histogram of test_values": np.arange(3)})
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["the journal can't hold 'histogram of test_values' (ndarray): left out from here on"]
