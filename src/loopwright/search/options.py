"""Check what `hyperparameter_search` was asked for, and tell the options of a study from those of going through it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from loopwright._support.extras import require_installed
from loopwright.errors import ArgumentError, SearchError, UnsupportedArgument

_OF_OPTIMIZE = ("timeout", "n_jobs", "gc_after_trial", "catch", "callbacks", "show_progress_bar")


def check_backend(backend: Any) -> None:
    """Refuse every backend but Optuna.

    Raises:
        UnsupportedArgument: it is another one.
        MissingExtra: Optuna is not installed.
    """
    name = getattr(backend, "value", backend)
    if name is not None and name != "optuna":
        raise UnsupportedArgument(f"backend={name!r} is not supported: expected 'optuna', which None means too")
    require_installed("optuna", extra="search", purpose="hyperparameter_search")


def check_trainer(trainer: Any) -> None:
    """Refuse a Trainer that can't begin anew.

    Raises:
        SearchError: it has no `model_init`, or is in the middle of something.
        ArgumentError: it has nothing to evaluate on.
    """
    if trainer.model_init is None:
        raise SearchError("hyperparameter_search needs the Trainer's argument model_init: each trial has a new model")
    if trainer.search is not None or trainer.is_in_train:
        raise SearchError("hyperparameter_search: this Trainer is training or searching already")
    if trainer.args.eval_strategy == "no" and trainer.eval_dataset is None and _evaluates_as_usual(trainer):
        trainer.get_eval_dataloader()  # raises where a subclass makes none: before the first trial, not after it


def _evaluates_as_usual(trainer: Any) -> bool:
    return bool(type(trainer).evaluate.__module__.partition(".")[0] == __name__.partition(".")[0])


def read_directions(direction: Any) -> list[str]:
    """Return one direction for each objective.

    Raises:
        ArgumentError: one is neither "minimize" nor "maximize".
    """
    directions = list(direction) if isinstance(direction, (list, tuple)) else [direction]
    words = [str(getattr(one, "name", one)).lower() for one in directions]
    if not words or not set(words) <= {"minimize", "maximize"}:
        raise ArgumentError(f"direction={direction!r}: expected 'minimize' or 'maximize', or a list of them")
    return words


def divide(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `optuna.create_study`, and those of `Study.optimize`.

    Raises:
        ArgumentError: one is neither's.
        UnsupportedArgument: several trials at once were asked for.
    """
    import optuna

    of_study = [name for name in inspect.signature(optuna.create_study).parameters if not name.startswith("direction")]
    for name in options:
        if name not in (*of_study, *_OF_OPTIMIZE):
            raise ArgumentError(f"{name}: expected one of {', '.join((*of_study, *_OF_OPTIMIZE))}")
    n_jobs = options.get("n_jobs", 1)
    if n_jobs != 1:
        raise UnsupportedArgument(
            f"n_jobs={n_jobs!r} is not supported: a Trainer has one loop; start the program several times instead, "
            "with the same storage and study_name, and load_if_exists=True"
        )
    catch = options.get("catch", ())
    divided = {name: value for name, value in options.items() if name in _OF_OPTIMIZE}
    # Optuna itself looks at it only when a trial has failed.
    divided["catch"] = tuple(catch) if isinstance(catch, (list, set, frozenset)) else catch
    if isinstance(divided["catch"], type):
        divided["catch"] = (divided["catch"],)
    return {name: value for name, value in options.items() if name in of_study}, divided
