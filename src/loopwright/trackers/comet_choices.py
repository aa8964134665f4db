"""Choose how a Comet experiment is opened: from environment variables, the run, and what was remembered of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from loopwright._support.env import parse_flag
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import ArgumentError
from loopwright.records import Run

logger: Logger = get_logger(__name__)

# Returns an environment variable, or None.
Variable = Callable[[str], str | None]

VARIABLES = (
    "COMET_EXPERIMENT_KEY",  # a name: the secret is COMET_API_KEY
    "COMET_LOG_ASSETS",
    "COMET_MODE",
    "COMET_OFFLINE_DIRECTORY",
    "COMET_PROJECT_NAME",
    "COMET_START_ONLINE",
    "COMET_URL_OVERRIDE",
    "COMET_WORKSPACE",
)

_STRATEGIES = ("get_or_create", "create", "get")
_DEPRECATED = {
    "online": "COMET_START_ONLINE=1",
    "offline": "COMET_START_ONLINE=0",
    "disabled": "report_to without comet_ml",
}
_DEFAULT_PROJECT = "huggingface"
_FEWEST_CHARACTERS, _MOST_CHARACTERS = 32, 50
LONGEST_NAME = 100


def asked_mode(variable: Variable) -> str:
    """Return what COMET_MODE says, in lower case; "get_or_create" where it says nothing that is known."""
    text = variable("COMET_MODE") or _STRATEGIES[0]
    mode = text.strip().lower()
    if mode in _STRATEGIES:
        return mode
    said = f"environment variable COMET_MODE={text!r}"
    if mode in _DEPRECATED:
        warn_once(logger, f"{said} is deprecated: use {_DEPRECATED[mode]}")
        return mode
    warn_once(logger, f"{said}: expected one of {', '.join(_STRATEGIES)}; taken as {_STRATEGIES[0]}")
    return _STRATEGIES[0]


def choose_strategy(run: Run, variable: Variable) -> str:
    """Return whether the experiment may, must or must not be there: "get_or_create", "get" or "create".

    Branches and trials are experiments of their own, whatever is asked for.
    """
    mode = asked_mode(variable)
    return mode if mode in _STRATEGIES and not _is_beside_another(run) else _STRATEGIES[0]


def asked_online(variable: Variable) -> bool | None:
    """Return whether the experiment is to be online, as the environment says; None where it says nothing.

    Raises:
        ArgumentError: COMET_START_ONLINE says neither yes nor no.
    """
    if (text := variable("COMET_START_ONLINE")) is not None:
        return parse_flag("COMET_START_ONLINE", text)
    return {"online": True, "offline": False}.get(asked_mode(variable))


def asked_key(variable: Variable) -> str | None:
    """Return COMET_EXPERIMENT_KEY.

    Raises:
        ArgumentError: it can't be a key, or it is missing where COMET_MODE needs it.
    """
    key = variable("COMET_EXPERIMENT_KEY")
    if key is None:
        if asked_mode(variable) == "get":
            raise ArgumentError("COMET_MODE=get needs the key of an experiment: set COMET_EXPERIMENT_KEY")
        return None
    if not (key.isalnum() and key.isascii() and _FEWEST_CHARACTERS <= len(key) <= _MOST_CHARACTERS):
        raise ArgumentError(
            f"environment variable COMET_EXPERIMENT_KEY={key!r}: expected {_FEWEST_CHARACTERS} to {_MOST_CHARACTERS} "
            "letters and digits"
        )
    return key


def choose_key(run: Run, variable: Variable, own_key: str) -> str:
    """Return the experiment's key: the one asked for, or, for branches and trials in any case, the run's own."""
    asked = asked_key(variable)
    if asked is None or asked == own_key:
        return own_key
    if _is_beside_another(run):
        logger.warning("comet_ml: COMET_EXPERIMENT_KEY=%s is another run's: this branch or trial has its own", asked)
        return own_key
    return asked


def _is_beside_another(run: Run) -> bool:
    return run.parent_id is not None or run.trial_name is not None


def own_key(run: Run, suffix: str) -> str:
    """Return a key that is the same in all sessions of a run; of two trackers' each has its own.

    Arguments:
        run: The run.
        suffix: What tells the tracker from the first of its kind.
    """
    return run.id if not suffix else hashlib.sha256(f"{run.id}-{suffix}".encode()).hexdigest()[:_FEWEST_CHARACTERS]


def choose_project(run: Run, variable: Variable) -> str | None:
    """Return the project; None for what Comet's own configuration says."""
    return variable("COMET_PROJECT_NAME") or (run.project if run.project != _DEFAULT_PROJECT else None)


def choose_directory(run: Run, variable: Variable, before: str | None) -> Path:
    """Return the absolute directory of the archives; the same as before."""
    wanted = before or variable("COMET_OFFLINE_DIRECTORY") or f"{run.output_dir}/comet"
    return Path(wanted).expanduser().absolute()


def choose_name(run: Run) -> str:
    """Return the experiment's name; a trial's begins with the search's."""
    if run.trial_name is None:
        return run.name or Path(run.output_dir).name
    return run.trial_name if run.name in {None, run.trial_name} else f"{run.name}-{run.trial_name}"


def fit_name(name: str) -> str:
    """Return a metric's name as Comet takes it: it would cut long ones off, and make one curve of two."""
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}-{digest}"
