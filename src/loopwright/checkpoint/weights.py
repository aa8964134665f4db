"""Write and read a model's weights: safetensors wherever they fit it, in the model's own way where it has one."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from loopwright._support.files import FileRecord
from loopwright.checkpoint.layout import (
    ADAPTER_NAMES,
    PICKLED_WEIGHTS_INDEX_NAME,
    PICKLED_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    WEIGHTS_NAMES,
    why_unreadable,
)
from loopwright.checkpoint.plain_files import first_line, load_plain, save_plain
from loopwright.checkpoint.tensor_file import is_storable, write_tensors
from loopwright.checkpoint.tying import tied_names
from loopwright.errors import CheckpointDamaged, CheckpointError
from loopwright.runtime.wrapping import unwrap_model

_INDEXES = frozenset({WEIGHTS_INDEX_NAME, PICKLED_WEIGHTS_INDEX_NAME})


def write_model(
    model: nn.Module | Mapping[str, Any],
    directory: Path | str,
    processing_class: Any = None,
    state: Mapping[str, Any] | None = None,
) -> dict[str, FileRecord]:
    """Write the model's weights, and its configuration where it has one, into `directory`.

    Arguments:
        model: Written by its `save_pretrained` where it has one, else its state dict as `model.safetensors`
            (`pytorch_model.bin` where safetensors can't hold it). A state dict may be given itself.
        directory: Made where it doesn't exist.
        processing_class: Written by its `save_pretrained`, where it has one.
        state: A state dict of the unwrapped model to write instead of what it holds now. A `save_pretrained` that
            names no `state_dict` isn't called then, only its `config`'s.

    Returns:
        By name, size and digest of the files that are known without reading them; those are on the disk.

    Raises:
        CheckpointError: the state dict holds what can't be read back without executing a pickle.
        OSError: a file could not be written. Whatever a `save_pretrained` raises passes too.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(model, nn.Module):
        model = unwrap_model(model)
    # What others write comes first: no one then touches a file after it was digested on its way to the disk.
    saves_itself = callable(getattr(model, "save_pretrained", None)) and _save_pretrained(model, directory, state)
    if callable(getattr(processing_class, "save_pretrained", None)):
        processing_class.save_pretrained(str(directory))
    return {} if saves_itself else write_state(model if state is None else state, directory)


def write_description(model: nn.Module | Mapping[str, Any], directory: Path, processing_class: Any = None) -> None:
    """Write what is saved beside the weights: the model's configuration, and the processing class.

    Raises:
        OSError: a file could not be written. Whatever a `save_pretrained` raises passes too.
    """
    bare = unwrap_model(model) if isinstance(model, nn.Module) else model
    parts: tuple[Any, ...] = (getattr(bare, "config", None), processing_class)
    for part in parts:
        if callable(getattr(part, "save_pretrained", None)):
            part.save_pretrained(str(directory))


def write_state(model: nn.Module | Mapping[str, Any], directory: Path) -> dict[str, FileRecord]:
    """Write the model's state dict, in place of one that is there, whether or not the model could save itself.

    Returns:
        Size and digest of the file, by its name.

    Raises:
        CheckpointError: the state dict holds what can't be read back without executing a pickle.
        OSError: the file could not be written.
    """
    state = unwrap_model(model).state_dict() if isinstance(model, nn.Module) else model
    if all(_fits_safetensors(value) for value in state.values()):
        written = WEIGHTS_NAME
        record = _write_safetensors(state, directory / written)
    else:
        written = PICKLED_WEIGHTS_NAME
        record = save_plain(dict(state), directory / written)
    for name in WEIGHTS_NAMES:  # one left by an earlier save_model might be taken for the newer
        if name != written:
            (directory / name).unlink(missing_ok=True)
    return {written: record}


def read_weights(directory: Path, names: Collection[str]) -> dict[str, Any]:
    """Read a state dict as `write_model`, safetensors or transformers wrote it, in one file or several.

    Arguments:
        directory: Where the files are.
        names: The model's own names: those that were tied to another when saved get its tensor.

    Raises:
        CheckpointError: there are no weights.
        CheckpointDamaged: they can't be read.
    """
    state: dict[str, Any] = {}
    for name in weight_files(directory):
        state |= read_file(directory, name, names)
    return state


def weight_files(directory: Path) -> list[str]:
    """Return the names of the files that `read_weights` reads there.

    Raises:
        CheckpointError: there are none.
        CheckpointDamaged: the index that lists them can't be read.
    """
    for name in WEIGHTS_NAMES:
        if os.path.lexists(directory / name):
            return _listed_in(directory, name) if name in _INDEXES else [name]
    if any(os.path.lexists(directory / name) for name in ADAPTER_NAMES):
        raise CheckpointError(f"{directory} holds a PEFT adapter only, and no whole model's weights")
    raise CheckpointError(f"no weights in {directory}: it has none of {', '.join(WEIGHTS_NAMES)}")


def _save_pretrained(model: Any, directory: Path, state: Mapping[str, Any] | None) -> bool:
    """Let the model write itself; return False where it can't write `state`, and only its config is written."""
    parameters = inspect.signature(model.save_pretrained).parameters
    # Only where they are named: **kwargs may take them for something else.
    if state is not None and "state_dict" not in parameters:
        write_description(model, directory)
        return False
    # A copy of the dict: transformers takes the tensors out of the one it is given.
    wanted: dict[str, Any] = {} if state is None else {"state_dict": dict(state)}
    if "safe_serialization" in parameters:
        wanted["safe_serialization"] = True
    model.save_pretrained(str(directory), **wanted)
    return True


def _fits_safetensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and is_storable(value.dtype)


def _write_safetensors(state: Mapping[str, torch.Tensor], file: Path) -> FileRecord:
    # As safetensors.torch.save_model: tied weights are written once, and the metadata say under which other names.
    aliases = {alias: kept for kept, *others in tied_names(state) for alias in others}
    tensors = {name: tensor for name, tensor in state.items() if name not in aliases}
    return write_tensors(tensors, file, {"format": "pt", **aliases})


def read_file(directory: Path, name: str, names: Collection[str]) -> dict[str, Any]:
    """Return the tensors of one file by name; see `read_weights`."""
    if reason := why_unreadable(directory, name):
        raise CheckpointDamaged(f"{directory / name}: {reason}")
    if name.endswith(".safetensors"):
        return _read_safetensors(directory / name, names)
    state = load_plain(directory / name)
    if not isinstance(state, dict):
        raise CheckpointDamaged(f"{directory / name}: holds a {type(state).__name__}, not a state dict")
    return state


def _read_safetensors(file: Path, names: Collection[str]) -> dict[str, Any]:
    try:
        with safetensors.safe_open(str(file), framework="pt") as content:
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (it is no dict)
            metadata = content.metadata() or {}
    except Exception as error:  # SafetensorError, and OSError or ValueError from below it
        raise CheckpointDamaged(f"{file}: can't be read: {first_line(error)}") from error
    tied = {alias: state[kept] for alias, kept in metadata.items() if alias in names and kept in state}
    return tied | state


def _listed_in(directory: Path, index: str) -> list[str]:
    if reason := why_unreadable(directory, index):
        raise CheckpointDamaged(f"{directory / index}: {reason}")
    try:
        places = json.loads((directory / index).read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(shard) for shard in places.values()})
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(f"{directory / index}: is no index of weights: {error}") from error
