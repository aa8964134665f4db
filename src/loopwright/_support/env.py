"""Read environment variables, with one notion of what "true" is.

Every variable that Loopwright looks at is read here: a linter rule forbids `os.getenv` elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

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
    return default if text is None else parse_flag(name, text)


def parse_flag(name: str, text: str) -> bool:
    """Return whether `text`, the variable's, says yes.

    Raises:
        ArgumentError: it is neither a yes nor a no.
    """
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


def read_choice(name: str, allowed: Sequence[str], default: str | None = None) -> str | None:
    """Return the variable in lower case, `default` where it is unset or empty.

    Raises:
        ArgumentError: it is none of `allowed`.
    """
    text = os.environ.get(name)
    if not text:
        return default
    word = text.strip().lower()
    if word not in allowed:
        raise ArgumentError(f"environment variable {name}={text!r}: expected one of {', '.join(allowed)}")
    return word


def read_all(names: Iterable[str]) -> dict[str, str]:
    """Return those of the variables that are set, by name."""
    return {name: os.environ[name] for name in names if name in os.environ}


def set_variables(values: Mapping[str, str]) -> None:
    """Set variables for this process and its children."""
    os.environ.update(values)


def whole_environment() -> dict[str, str]:
    """Return a copy of the environment, for a child process."""
    return dict(os.environ)


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(word for word in words if word))
