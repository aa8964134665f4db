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
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a half-installed package, or a module planted without a spec
        return False
    # A folder of that name, such as the "wandb" that holds a tracker's files, is found too, as a namespace package.
    return spec is not None and spec.origin is not None


def require_installed(module: str, *, extra: str, purpose: str) -> None:
    """Check that `module`, which the extra `extra` of Loopwright installs, could be imported.

    Raises:
        MissingExtra: it is not installed; the message says what for, and the pip line.
    """
    if not is_installed(module):
        raise MissingExtra(f'{purpose} needs the package {module}: pip install "loopwright[{extra}]"')


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import and return `module`, which the extra `extra` of Loopwright installs.

    Raises:
        MissingExtra: it is not installed; the message says what for, and the pip line.
    """
    require_installed(module, extra=extra, purpose=purpose)
    return importlib.import_module(module)
