"""What is searched for, and how it becomes arguments: the default space and objective, and a trial's values set.

A name is checked, its value is converted by the argument itself, then what follows from others is derived anew, and the
rules that concern several arguments are applied: a trial's arguments are as good as newly made ones.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loopwright._support.extras import require_installed
from loopwright.arguments.derivation import DERIVATIONS
from loopwright.arguments.validation import check_rules
from loopwright.errors import ArgumentError, UnsupportedArgument

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

# The Trainer has acted on these when it was made, or the search itself sets them.
_SETTLED = frozenset(
    {
        "callback_errors",
        "disable_tqdm",
        "full_determinism",
        "log_level",
        "log_level_replica",
        "logging_dir",
        "max_hours",
        "no_cuda",
        "output_dir",
        "project",
        "report_to",
        "resume_from_checkpoint",
        "run_name",
        "save_every_minutes",
        "signal_action",
        "use_cpu",
    }
)


def default_hp_space_optuna(trial: Any) -> dict[str, Any]:
    """Suggest what transformers does: learning rate, epochs, seed and training batch size.

    Arguments:
        trial: Optuna's.

    Returns:
        Values by the names of arguments.
    """
    require_installed("optuna", extra="search", purpose="the default hyper-parameter space")
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def default_compute_objective(metrics: Mapping[str, float]) -> float:
    """Return the sum of what `compute_metrics` measured, or `eval_loss` where that is nothing, as transformers does.

    Arguments:
        metrics: Of an evaluation. Epoch, run times and numbers per second count as nothing measured.

    Raises:
        ArgumentError: there is no number to go by.
    """
    measured = {
        name: value
        for name, value in metrics.items()
        if name not in {"eval_loss", "epoch"} and not name.endswith(("_runtime", "_per_second"))
    }
    if measured:
        return sum(measured.values())
    if metrics.get("eval_loss") is None:
        raise ArgumentError(
            f"compute_objective: the evaluation has no eval_loss and nothing measured, only {sorted(metrics)}; "
            "give hyperparameter_search a compute_objective"
        )
    return metrics["eval_loss"]


def set_parameters(args: TrainingArguments, parameters: Any) -> None:
    """Set arguments to a trial's values, converted and checked as at any assignment.

    Raises:
        ArgumentError: `parameters` is no dict, a name is no argument's, or a value can't work.
        UnsupportedArgument: an argument can't be searched for.
    """
    if not isinstance(parameters, Mapping):
        raise ArgumentError(
            f"hp_space returned {parameters!r}: expected a dict of arguments by name (without one, {{}})"
        )
    names = [field.name for field in dataclasses.fields(args) if field.init]
    for name, value in parameters.items():
        _check_name(name, names)
        setattr(args, name, value)
    # As at their construction: what follows from others, and what contradicts them.
    for derive in DERIVATIONS:
        derive(args)
    check_rules(args)


def _check_name(name: Any, names: list[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ArgumentError(
            f"hp_space gives {name!r}: expected the name of an argument, such as 'learning_rate'; "
            "entries of a dict are searched for by giving the whole dict"
        )
    if name in _SETTLED:
        raise UnsupportedArgument(f"hp_space gives {name}: it is settled when the Trainer is made, and can't be tried")
    if name not in names:
        close = difflib.get_close_matches(name, names, n=2)
        raise ArgumentError(
            f"hp_space gives {name}: TrainingArguments has no such field"
            + (f" (near it: {', '.join(close)})" if close else "")
            + "; what the model takes is suggested in model_init(trial), or read there from trial.params"
        )
