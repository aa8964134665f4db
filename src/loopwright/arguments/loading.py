"""Read arguments from a JSON, YAML or TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from loopwright._support.extras import require
from loopwright.arguments.choices import suggest
from loopwright.errors import ArgumentError


def read_arguments(path: str | Path, known: Collection[str]) -> dict[str, Any]:
    """Return what the file at `path` says, by name.

    Raises:
        ArgumentError: the file is of another kind or broken, or has a name that isn't in `known`.
        MissingExtra: it is YAML, and PyYAML isn't installed.
    """
    file = Path(path)
    if file.suffix.lower() not in _PARSERS:
        raise ArgumentError(f"{file}: expected a file ending in {', '.join(_PARSERS)}")
    try:
        found = _PARSERS[file.suffix.lower()](file.read_text(encoding="utf-8"))
    except ValueError as broken:
        raise ArgumentError(f"{file} can't be read: {broken}") from broken
    if not isinstance(found, dict):
        raise ArgumentError(f"{file}: expected names of arguments with their values, found a {type(found).__name__}")
    for name in found:
        if name not in known:
            raise ArgumentError(f"{name!r} in {file} is not a training argument{suggest(name, known)}")
    return found


def _parse_yaml(text: str) -> Any:
    yaml = require("yaml", extra="yaml", purpose="reading arguments from YAML")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as broken:
        raise ValueError(str(broken)) from broken


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".toml": tomllib.loads,
}
