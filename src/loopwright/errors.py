"""The errors that Loopwright raises on purpose, each saying what was wrong, what was found and what would do.

    LoopwrightError
    ├── ArgumentError            (ValueError)         an argument, or two that contradict each other
    │   └── UnsupportedArgument                       one that transformers knows and Loopwright can't honour
    ├── DataError                (ValueError)         a dataset, a batch or a model output that training can't use
    ├── CheckpointError          (RuntimeError)       something about saved state
    │   ├── CheckpointNotFound   (ValueError)         nothing to resume from
    │   └── CheckpointDamaged                         files missing, cut short, changed or swapped
    ├── JournalError             (RuntimeError)       the journal could not be opened, written or read
    │   ├── JournalBusy                               another process writes or delivers it
    │   └── JournalNotFound      (ValueError)         there is none
    ├── SearchError              (RuntimeError)       a hyper-parameter search can't begin, or came to nothing
    ├── RankFailed               (RuntimeError)       another process of the training failed, and this one with it
    ├── TrackerError             (RuntimeError)       a tracker could not take what it was given
    │   └── RecordRefused                             one record that the service will never take
    └── MissingExtra             (ImportError)        an optional package; the message holds the pip line

Each also is the built-in error that transformers raises in its place: an `except ValueError` written for it works.
`Preempted`, which is no error, ends a process that was asked to end once its training is saved.
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


class JournalError(LoopwrightError, RuntimeError):
    """The journal could not be opened, written or read."""


class JournalBusy(JournalError):
    """Another process holds the journal, or its delivery."""


class JournalNotFound(JournalError, ValueError):
    """There is no journal in the directory."""


class SearchError(LoopwrightError, RuntimeError):
    """A hyper-parameter search can't begin, or came to nothing."""


class RankFailed(LoopwrightError, RuntimeError):
    """Another process of this training failed first; the message says which and why."""


class TrackerError(LoopwrightError, RuntimeError):
    """A tracker could not take what it was given; it is tried again."""


class RecordRefused(TrackerError):
    """A service will never take a record: it is named once and left out, and those after it go on.

    Arguments:
        sequence: The record's number in the journal.
        reason: Why.
    """

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"record {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


class MissingExtra(LoopwrightError, ImportError):
    """An optional package is needed and not installed."""


class Preempted(SystemExit):
    """A signal asked the process to end, and its training has been saved; the exit status is 128 plus its number.

    Arguments:
        number: The signal's.
        name: The signal's.
        step: Optimizer updates done.
    """

    def __init__(self, number: int, name: str, step: int) -> None:
        super().__init__(128 + number)
        self.signal = number
        self.reason: str = f"{name} at step {step}"

    def __str__(self) -> str:
        return self.reason


def describe(error: BaseException) -> str:
    """Return an error in one line, its kind first."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
