"""Read environment variables, with one notion of what "true" is.

Every variable that Loopwright looks at is read here: a linter rule forbids `os.getenv` elsewhere.
"""

from __future__ import annotations

import os

from loopwright.errors import ArgumentError

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"", "0", "false", "f", "no", "n", "off"})


def read_text(name: str, default: str | None = None) -> str | None:
    """Return the variable's text, or `default` where it is unset or empty."""
    return os.environ.get(name) or default


def read_flag(name: str, *, default: bool = False) -> bool:
    """Return whether the variable says yes; `default` where it is unset.

    Raises:
        ArgumentError: the text is neither a yes nor a no.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ArgumentError(f"environment variable {name}={text!r}: expected one of {_listed(_TRUE)} or {_listed(_FALSE)}")


def read_int(name: str, default: int) -> int:
    """Return the variable as a whole number; `default` where it is unset or empty.

    Raises:
        ArgumentError: the text is not a whole number.
    """
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"environment variable {name}={text!r}: expected a whole number") from None


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(word for word in words if word))
