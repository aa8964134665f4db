"""Read a checkpoint's parts back, ours or transformers', without ever executing what a file says.

Digests are `verify`'s business. Here a damaged file ends in a CheckpointDamaged that names it, not in a traceback from
inside torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loopwright._support.log import Logger, get_logger
from loopwright.checkpoint.adapters import holds_adapters_alone, load_adapters
from loopwright.checkpoint.layout import (
    DATA_STATE_NAME,
    LOOPWRIGHT_STATE_NAME,
    OPTIMIZER_NAME,
    RANDOMNESS_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    UPDATE_NAME,
    name_of_rank,
    why_unreadable,
)
from loopwright.checkpoint.plain_files import first_line, load_plain, numpy_arrays_allowed
from loopwright.checkpoint.shards import (
    MODEL_SHARDS_NAME,
    OPTIMIZER_SHARDS_NAME,
    joined_optimizer,
    read_shards,
    shards_in,
)
from loopwright.checkpoint.tying import tied_names
from loopwright.checkpoint.weights import read_weights
from loopwright.errors import CheckpointDamaged, CheckpointError
from loopwright.runtime.dtensors import is_dtensor, spread_as
from loopwright.runtime.wrapping import unwrap_model
from loopwright.state import TRAINER_STATE_NAME, TrainerState

logger: Logger = get_logger(__name__)

_NAMES_SHOWN = 5


def load_model_weights(model: nn.Module, directory: Path | str, strict: bool = True) -> None:
    """Put the weights saved in `directory` into `model`, which may be wrapped.

    Arguments:
        model: Must have the names and shapes that were saved; dtypes and devices are its own.
        directory: A checkpoint, or where `save_model` or `save_pretrained` wrote.
        strict: Whether names that only one side has are an error, or else a warning.

    Raises:
        CheckpointError: there are no weights, or they are another model's.
        CheckpointDamaged: they can't be read.
    """
    directory = Path(directory)
    model = unwrap_model(model)
    if holds_adapters_alone(directory):
        load_adapters(model, directory)
        return
    own = model.state_dict()
    if shards_in(directory, MODEL_SHARDS_NAME):
        state = read_shards(directory, MODEL_SHARDS_NAME, own.get)
    else:
        state = read_weights(directory, own.keys())
    if _names_differ(own, state) and callable(getattr(model, "from_pretrained", None)):
        state = _read_converted(model, directory) or state
    _refuse_other_shapes(own, state, directory)
    state = {name: spread_as(value, own.get(name)) for name, value in state.items()}
    try:
        outcome = model.load_state_dict(state, strict=False)
    except Exception as error:  # a model's own hooks and set_extra_state run here
        raise CheckpointError(f"the weights in {directory} don't fit the model: {first_line(error)}") from error
    missing = sorted(set(outcome.missing_keys) - _not_needed(model, own, state))
    if problem := "; ".join([*_named("missing", missing), *_named("unexpected", sorted(outcome.unexpected_keys))]):
        problem = f"the weights in {directory} are not those of this {type(model).__name__}: {problem}"
        if strict:
            raise CheckpointError(problem)
        logger.warning(problem)


def load_optimizer(directory: Path | str, parameters: Sequence[Any] = ()) -> dict[str, Any] | None:
    """Return the optimizer's state dict; None where none was saved.

    Arguments:
        directory: The checkpoint.
        parameters: The optimizer's, in its order. What is kept for a `DTensor` comes as one, this process's part of it
            alone; everything else comes whole, and on the CPU.
    """
    directory = Path(directory)
    state = _load_state(directory, OPTIMIZER_NAME)
    if state is not None and shards_in(directory, OPTIMIZER_SHARDS_NAME):
        kept_for = dict(enumerate(parameters))
        parts = read_shards(directory, OPTIMIZER_SHARDS_NAME, lambda name: kept_for.get(int(name.partition(".")[0])))
        state = joined_optimizer(state, parts)
    if state is not None and any(map(is_dtensor, parameters)):
        _spread_optimizer(state, parameters)
    return state


def _spread_optimizer(state: dict[str, Any], parameters: Sequence[Any]) -> None:
    for number, values in state["state"].items():
        if number < len(parameters):
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    values[name] = spread_as(value, parameters[number])


def load_scheduler(directory: Path | str) -> dict[str, Any] | None:
    """Return the scheduler's state dict; None where none was saved."""
    return _load_state(Path(directory), SCHEDULER_NAME)


def load_scaler(directory: Path | str) -> dict[str, Any] | None:
    """Return the gradient scaler's state dict; None where none was saved."""
    return _load_state(Path(directory), SCALER_NAME)


def load_randomness(directory: Path | str, index: int = 0) -> dict[str, Any] | None:
    """Return the random states of process `index`, for `restore_randomness`; None where none were saved."""
    with numpy_arrays_allowed():
        return _load_state(Path(directory), name_of_rank(RANDOMNESS_NAME, index))


def load_data_state(directory: Path | str, index: int = 0) -> dict[str, Any] | None:
    """Return where in the data process `index` was, and what its epoch began with; None where that was not saved."""
    with numpy_arrays_allowed():
        return _load_state(Path(directory), name_of_rank(DATA_STATE_NAME, index))


def load_update(directory: Path | str) -> dict[str, Any] | None:
    """Return gradients and batches of the update that was interrupted, on the CPU; None where none was."""
    with numpy_arrays_allowed():
        return _load_state(Path(directory), UPDATE_NAME)


def load_trainer_state(directory: Path | str) -> TrainerState:
    """Return the `TrainerState` as saved, by this library or transformers."""
    file = _existing(Path(directory), TRAINER_STATE_NAME)
    if file is None:
        raise CheckpointError(f"{Path(directory) / TRAINER_STATE_NAME}: missing, so this is no checkpoint of a Trainer")
    try:
        state = TrainerState.load_from_json(file)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(f"{file}: can't be read: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(state.global_step, int) or not isinstance(state.log_history, list):
        raise CheckpointDamaged(f"{file}: can't be read: its global_step or log_history has a wrong type")
    return state


def load_loopwright_state(directory: Path | str) -> dict[str, Any] | None:
    """Return what only Loopwright saves; None in a checkpoint of transformers."""
    file = _existing(Path(directory), LOOPWRIGHT_STATE_NAME)
    if file is None:
        return None
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointDamaged(f"{file}: can't be read: {type(error).__name__}: {first_line(error)}") from error
    return _checked_dict(state, file)


def _load_state(directory: Path, name: str) -> dict[str, Any] | None:
    file = _existing(directory, name)
    return None if file is None else _checked_dict(load_plain(file), file)


def _existing(directory: Path, name: str) -> Path | None:
    """Return the file's path, None where there is no such file; one that may not be opened is an error."""
    reason = why_unreadable(directory, name)
    if reason is None:
        return directory / name
    if reason == "missing" and not (directory / name).is_symlink():
        return None
    raise CheckpointDamaged(f"{directory / name}: {reason}")


def _checked_dict(value: Any, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointDamaged(f"{file}: holds a {type(value).__name__}, not a dict")
    return value


def _names_differ(own: dict[str, Any], state: dict[str, Any]) -> bool:
    return bool(state.keys() - own.keys()) or bool(own.keys() - state.keys() - _tied_to_present(own, state))


def _read_converted(model: Any, directory: Path) -> dict[str, Any] | None:
    """Let the model's class read its own files: some of transformers' models save under other names."""
    try:
        with torch.random.fork_rng(devices=[]):  # building the second model must not move the run's random numbers
            reloaded = type(model).from_pretrained(str(directory), local_files_only=True)
        state: dict[str, Any] = reloaded.state_dict()
    except Exception as error:  # then the names that differ are reported
        logger.info("%s.from_pretrained could not read %s: %s", type(model).__name__, directory, first_line(error))
        return None
    return state


def _refuse_other_shapes(own: dict[str, Any], state: dict[str, Any], directory: Path) -> None:
    wrong = [
        f"{name} has shape {tuple(state[name].shape)}, the model's {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if isinstance(tensor, torch.Tensor)
        and isinstance(state.get(name), torch.Tensor)
        and not torch.nn.parameter.is_lazy(tensor)
        and state[name].shape != tensor.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - _NAMES_SHOWN} more)" if len(wrong) > _NAMES_SHOWN else ""
        raise CheckpointError(
            f"the weights in {directory} don't fit the model: {'; '.join(wrong[:_NAMES_SHOWN])}{more}"
        )


def _not_needed(model: nn.Module, own: dict[str, Any], state: dict[str, Any]) -> set[str]:
    """Return the names that may be missing: tied to one that is there, or left out by transformers on purpose."""
    return _tied_to_present(own, state) | set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def _tied_to_present(own: dict[str, Any], state: dict[str, Any]) -> set[str]:
    return {name for group in tied_names(own) if not state.keys().isdisjoint(group) for name in group}


def _named(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return [f"{what} {', '.join(names[:_NAMES_SHOWN])}{more}"] if names else []
