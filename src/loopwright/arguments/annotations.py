"""Types of fields that are given in one form and kept in another.

Type checkers see what a field holds after construction, command-line parsers (which read the hints at run time) what
they have to accept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright.arguments.choices import TokenCount

if TYPE_CHECKING:
    Options = dict[str, Any] | None
    TokenCountOrFlag = TokenCount | str | bool
else:
    # JSON text, from a command line. The order matters: HfArgumentParser takes the second type for its own.
    Options = dict[str, Any] | str | None
    # Without bool: HfArgumentParser would take nothing but booleans then.
    TokenCountOrFlag = TokenCount | str
