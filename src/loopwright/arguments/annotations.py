"""Types of fields that are given in one form and kept in another, and the types of all fields, resolved.

Type checkers see what a field holds after construction, command-line parsers (which read the hints at run time) what
they have to accept.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from loopwright.arguments.choices import TokenCount

if TYPE_CHECKING:
    Options = dict[str, Any] | None
    OptionsOrFile = dict[str, Any] | str | None
    Words = bool | str | list[str] | None
    TokenCountOrFlag = TokenCount | str | bool
else:
    # A command line gives JSON text; no parser takes that for a dict.
    Options = Annotated[str | None, dict]
    OptionsOrFile = Annotated[str | None, dict | str]
    Words = Annotated[str | None, bool | str | list]
    # Without bool: HfArgumentParser would take nothing but booleans then.
    TokenCountOrFlag = TokenCount | str


@functools.cache
def resolved_hints(owner: type) -> dict[str, Any]:
    """Return the types of the fields of `owner` and its bases, leaving out what a user's class can't resolve."""
    hints: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if not (own := inspect.get_annotations(base)):
            continue
        try:
            resolved = get_type_hints(base, include_extras=True)
        except Exception:  # names that exist for type checkers only, in forms of any kind
            continue
        hints.update({name: resolved[name] for name in own})
    return hints


def without_extras(annotation: Any) -> Any:
    """Return what a parser has to take for the field."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
