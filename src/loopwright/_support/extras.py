"""Find and load optional packages without importing what was not asked for."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from loopwright.errors import MissingExtra


def is_installed(module: str) -> bool:
    """Return whether `module` could be imported, without importing it (nor, for dotted names, its parents' code)."""
    top, _, _ = module.partition(".")
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):  # a half-installed package, or a module planted without a spec
        return False


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import and return `module`, which the extra `extra` of Loopwright installs.

    Raises:
        MissingExtra: it is not installed; the message says what for, and the pip line.
    """
    if not is_installed(module):
        raise MissingExtra(f'{purpose} needs the package {module}: pip install "loopwright[{extra}]"')
    return importlib.import_module(module)
