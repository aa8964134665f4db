"""Give every module its logger below "loopwright", and say a thing once that would be tiresome twice."""

from __future__ import annotations

import logging
import sys
from logging import Logger

__all__ = ["ROOT_NAME", "Logger", "get_logger", "set_level", "warn_once"]  # Logger: one import does for a module

ROOT_NAME = "loopwright"
_said: set[str] = set()


def get_logger(name: str) -> logging.Logger:
    """Return the logger of module `name`; warnings reach stderr even where the program configured no logging."""
    return logging.getLogger(name)


def warn_once(logger: logging.Logger, message: str) -> None:
    """Log `message` as a warning the first time it comes up in this process, and never again."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)


def set_level(level: int) -> None:
    """Set the level of all of Loopwright's loggers, adding a stderr handler where the program has none."""
    root = logging.getLogger(ROOT_NAME)
    root.setLevel(level)
    if level < logging.WARNING and not root.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        root.addHandler(handler)
