"""The errors that Loopwright raises on purpose, each saying what was wrong, what was found and what would do.

    LoopwrightError
    ├── ArgumentError            (ValueError)         an argument, or two that contradict each other
    │   └── UnsupportedArgument                       one that transformers knows and Loopwright can't honour
    ├── DataError                (ValueError)         a dataset, a batch or a model output that training can't use
    ├── CheckpointError          (RuntimeError)       something about saved state
    │   ├── CheckpointNotFound   (ValueError)         nothing to resume from
    │   └── CheckpointDamaged                         files missing, cut short, changed or swapped
    └── MissingExtra             (ImportError)        an optional package; the message holds the pip line

Each also is the built-in error that transformers raises in its place: an `except ValueError` written for it works.
"""

from __future__ import annotations


class LoopwrightError(Exception):
    """Base of every error that Loopwright raises on purpose."""


class ArgumentError(LoopwrightError, ValueError):
    """An argument has a value that can't work; the message names argument, value and what is allowed."""


class UnsupportedArgument(ArgumentError):
    """An argument that transformers accepts and Loopwright refuses rather than ignores."""


class DataError(LoopwrightError, ValueError):
    """A dataset, a batch or a model's output has a form that training can't use."""


class CheckpointError(LoopwrightError, RuntimeError):
    """Saved state could not be written, found or read."""


class CheckpointNotFound(CheckpointError, ValueError):
    """There is no whole checkpoint to resume from."""


class CheckpointDamaged(CheckpointError):
    """A checkpoint's files are missing, cut short, changed or not the ones that were written."""


class MissingExtra(LoopwrightError, ImportError):
    """An optional package is needed and not installed."""
