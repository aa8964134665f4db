"""Write logged values as JSON text and read them back the same.

NaN and the infinities are kept (as Python's json spells them), whole numbers of any size too. NumPy's numbers and
zero-dimensional tensors become plain numbers, sets become lists. What can't be stored is left out and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any


def encode(values: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the JSON text of `values`, and a description of each entry that had to be left out."""
    try:
        return dumps(values), []
    except Exception:  # a value's own methods may raise anything: a tensor without data, a RuntimeError
        pass
    kept: dict[str, str] = {}
    left_out: list[str] = []
    for key, value in values.items():
        try:
            kept[str(key)] = dumps(value)
        except Exception:
            left_out.append(f"{key!r} ({type(value).__name__})")
    return "{" + ", ".join(f"{dumps(key)}: {text}" for key, text in kept.items()) + "}", left_out


def decode(text: str) -> dict[str, Any]:
    """Return the values that `encode` wrote."""
    values: dict[str, Any] = json.loads(text)
    return values


def storable(text: str | None) -> str | None:
    """Return `text` with what UTF-8 can't hold spelled out, such as the odd bytes of a file's name in a message."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any) -> Any:
    """Return what stands for `value`, which json can't write by itself."""
    if callable(item := getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0:
        plain = item()
        if plain is not value:
            return plain
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no place in a journal")


def _kept_encoder() -> Callable[[Any], str]:
    """Return `json.dumps` with `_plain` as its `default`.

    `dumps` makes an encoder each time, and an encoder's `encode` its part that is written in C: each takes as long as
    encoding a log line. So that part is kept, where Python has it.
    """
    encoder = json.JSONEncoder(default=_plain)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    # No marks against cycles, which an error would leave behind: a cycle is a RecursionError then.
    parts = (json.encoder.encode_basestring_ascii, None, encoder.key_separator, encoder.item_separator)
    try:
        chunks = make(None, _plain, *parts, False, False, True)
    except TypeError:  # a Python that wants something else there
        return encoder.encode
    return lambda value: "".join(chunks(value, 0))


dumps = _kept_encoder()
"""Return a value's JSON text."""
