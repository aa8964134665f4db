"""One trial: what it is called, where its files go, and whether the process that tried it is still there.

A trial has the directory `<output_dir>/<name>` to itself: journal, checkpoints and everything else. While it is tried,
a lock in there is held, which goes with its process; a trial that Optuna holds for running, and whose lock nobody has,
was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from loopwright._support.log import Logger, get_logger
from loopwright.errors import ArgumentError, JournalBusy, JournalError
from loopwright.journal.ownership import Ownership
from loopwright.journal.recorder import Recorder
from loopwright.records import Trial

logger: Logger = get_logger(__name__)

# The one entry among the user's attributes of an Optuna trial or study.
ATTRIBUTE = "loopwright"
_LOCK_NAME = "trial.lock"


class Searches(Protocol):
    """The part of a search that tells what its trials are called."""

    search_id: str

    def name_of(self, trial: Any) -> str:
        """Return the trial's name."""
        ...


def describe_trial(trial: Any, search: Searches | None) -> Trial | None:
    """Return what `train(trial=...)` was given as its run knows it; None without one.

    Arguments:
        trial: Optuna's (also a `FixedTrial` or `FrozenTrial`), or a dict of hyper-parameters.
        search: The search under way, if any.

    Raises:
        ArgumentError: it is neither.
    """
    if trial is None:
        return None
    if isinstance(trial, Mapping):
        return Trial(None, dict(trial))
    if not hasattr(trial, "params") or not hasattr(trial, "number"):
        raise ArgumentError(f"trial={trial!r}: expected an Optuna trial, or a dict of hyper-parameters")
    if search is None:
        return Trial(f"run-{trial.number}", dict(trial.params))
    return Trial(search.name_of(trial), dict(trial.params), search.search_id)


def choose_name(trial: Any, hp_name: Callable[[Any], str] | None) -> str:
    """Return the trial's name, which is that of its folder too.

    Raises:
        ArgumentError: `hp_name` gave something that is no folder's name, or another trial of the study has it.
    """
    if hp_name is None:
        return f"run-{trial.number}"
    name = hp_name(trial)
    if not isinstance(name, str) or not name or name in {".", ".."} or {"/", "\\", "\0"} & set(name):
        raise ArgumentError(f"hp_name gave {name!r} for trial {trial.number}: expected a name that a folder can have")
    for other in trial.study.get_trials(deepcopy=False):
        if other.number != trial.number and other.user_attrs.get(ATTRIBUTE, {}).get("name") == name:
            raise ArgumentError(
                f"hp_name gave {name!r} for trial {trial.number}, and trial {other.number} has it: expected one each"
            )
    return name


def claim(trial: Any, directory: Path, name: str) -> Ownership:
    """Take `directory` for `trial`, and return the lock to release at its end.

    Raises:
        JournalBusy: another search has a trial in there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = Ownership(directory / _LOCK_NAME, "training a trial in")
    lock.acquire()
    trial.set_user_attr(ATTRIBUTE, {"name": name, "directory": str(directory.resolve())})
    return lock


def fail_killed_trials(study: Any) -> None:
    """Let trials that a kill left running count as failed; those that another process is at are left alone."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        directory = trial.user_attrs.get(ATTRIBUTE, {}).get("directory")
        if directory is not None and _is_deserted(Path(directory)):
            logger.warning("trial %d was killed midway: it counts as failed", trial.number)
            study.tell(trial.number, state=TrialState.FAIL)
            _close_journal(Path(directory))


def _close_journal(directory: Path) -> None:
    """Let the journal say too that its training was killed."""
    try:
        recorder = Recorder(directory)
        recorder.open()
        recorder.close()
    except (JournalError, OSError) as error:
        logger.debug("the journal in %s can't be closed: %s", directory, error)


def _is_deserted(directory: Path) -> bool:
    if not (directory / _LOCK_NAME).exists():  # moved, or on another machine
        return False
    lock = Ownership(directory / _LOCK_NAME, "training a trial in")
    try:
        lock.acquire()
    except (JournalBusy, OSError):
        return False
    lock.release()
    return True
