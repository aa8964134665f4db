"""Say which of a run's arguments are not what `TrainingArguments` has by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loopwright.arguments import TrainingArguments
from loopwright.errors import LoopwrightError
from loopwright.journal.values import decode, encode
from loopwright.report.views import Difference


def find_differences(arguments: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return those of `arguments`, as a journal holds them, that are not the defaults, by name."""
    if not arguments:
        return ()
    defaults = _defaults(arguments)
    found = []
    for name, value in sorted(arguments.items()):
        if name == "output_dir":
            continue
        is_known = name in defaults
        if not is_known or (value != defaults[name] and repr(value) != repr(defaults[name])):
            found.append(Difference(name, value, defaults.get(name), is_known))
    return tuple(found)


def _defaults(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default arguments of the same directory: some follow from that."""
    directory = arguments.get("output_dir")
    try:
        made = TrainingArguments(directory if isinstance(directory, str) else "trainer_output")
    except LoopwrightError:  # a variable of this machine that the arguments read and can't understand
        return {}
    return decode(encode(made.to_dict())[0])
