"""Find and load optional packages without importing what was not asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from loopwright.errors import MissingExtra


def is_installed(module: str) -> bool:
    """Return whether `module` could be imported, without importing it (nor, for dotted names, its parents' code)."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for name in inner:
            spec = None if spec is None else _find_inside(spec, name)
    except (ImportError, ValueError):  # a half-installed package, or a module planted without a spec
        return False
    # A folder of that name, such as the "wandb" that holds a tracker's files, is found too, as a namespace package.
    return spec is not None and spec.origin is not None


def _find_inside(package: ModuleSpec, name: str) -> ModuleSpec | None:
    """Return where a package's module is: `importlib.util.find_spec` would import the package."""
    if package.submodule_search_locations is None:
        return None
    path = list(package.submodule_search_locations)
    found = (finder.find_spec(f"{package.name}.{name}", path, None) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


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
