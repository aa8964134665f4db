"""Write and read tensors of which each process has a part: a file from each, in a directory of their own.

    model_shards/00001-of-00002.safetensors        the first process's part of every weight
    model_shards/00002-of-00002.safetensors        the second's
    optimizer_shards/...                           the same of the optimizer's state: "<parameter>.<name>"

The format is that of `torch.distributed.checkpoint`'s HuggingFaceStorageWriter: safetensors, with the place of each
part in the whole in the metadata. torch reads it, by any number of processes, each taking what it needs; nothing is
pickled, unlike in torch's own `.distcp`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from loopwright._support.files import FileRecord
from loopwright.checkpoint.layout import why_unreadable
from loopwright.checkpoint.plain_files import first_line
from loopwright.checkpoint.tensor_file import is_storable, write_tensors
from loopwright.checkpoint.tying import tied_names
from loopwright.errors import CheckpointDamaged, CheckpointError
from loopwright.runtime.dtensors import is_dtensor, local_part

MODEL_SHARDS_NAME = "model_shards"
OPTIMIZER_SHARDS_NAME = "optimizer_shards"

_NAMES_SHOWN = 5
_PLACES_KEY, _OFFSETS_KEY = "DCP_SHARDING_INFO", "saved_offsets"


def shards_in(directory: Path, name: str) -> list[str]:
    """Return the files in the subdirectory `name` of a checkpoint, by relative path; none where it has no such."""
    return sorted(f"{name}/{path.name}" for path in (directory / name).glob("*.safetensors"))


def write_shard(tensors: Mapping[str, Any], directory: Path, name: str, index: int, size: int) -> dict[str, FileRecord]:
    """Write this process's part of `tensors`, durably; return size and digest of the file, by relative path.

    Arguments:
        tensors: `DTensor`s; what else is among them the first process writes.
        directory: The checkpoint's, which all processes see.
        name: The subdirectory.
        index: Of this process.
        size: How many there are.

    Raises:
        CheckpointError: safetensors has no name for a tensor's type.
        OSError: the file could not be written.
    """
    aliases = {alias for _, *others in tied_names(tensors) for alias in others}
    parts: dict[str, torch.Tensor] = {}
    places: dict[str, dict[str, list[int]]] = {}
    for key, tensor in tensors.items():
        if key in aliases:
            continue
        if not isinstance(tensor, torch.Tensor) or not is_storable(tensor.dtype):
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise CheckpointError(f"{key}: a {kind} can't be written in shards; use state_dict_type='FULL_STATE_DICT'")
        if (offsets := _own_place(tensor, is_first=index == 0)) is not None:
            parts[key], places[key] = local_part(tensor), {_OFFSETS_KEY: offsets}
    (directory / name).mkdir(exist_ok=True)
    file = f"{name}/{index + 1:05}-of-{size:05}.safetensors"
    metadata = {"format": "pt", _PLACES_KEY: json.dumps(places)}
    return {file: write_tensors(parts, directory / file, metadata)}


def read_shards(directory: Path, name: str, like: Callable[[str], Any] = lambda key: None) -> dict[str, Any]:
    """Return the tensors that all processes have written.

    Arguments:
        directory: The checkpoint's.
        name: The subdirectory.
        like: Called with a tensor's name. Where it returns a `DTensor` of that shape, this process's part alone is
            read, as one; all else is read whole, into the CPU's memory.

    Raises:
        CheckpointError: this torch can't read them.
        CheckpointDamaged: they can't be read.
    """
    for file in shards_in(directory, name):
        if reason := why_unreadable(directory, file):
            raise CheckpointDamaged(f"{directory / file}: {reason}")
    try:
        # Only where there are shards: it takes a third of a second to import.
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load
    except ImportError as error:
        raise CheckpointError(f"{directory / name}: sharded weights are read by torch 2.9 and later") from error
    try:
        found = HuggingFaceStorageReader(str(directory / name)).read_metadata().state_dict_metadata
        if holes := [key for key, tensor in found.items() if not _is_complete(tensor)]:
            raise CheckpointDamaged(f"parts of {', '.join(sorted(holes)[:_NAMES_SHOWN])} are missing")
        state = {key: _room(found[key], like(key)) for key in found}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that one process reads alone: it is what is wanted
            load(state, storage_reader=HuggingFaceStorageReader(str(directory / name)), no_dist=True)
    except Exception as error:  # whatever a damaged file makes torch's planner and safetensors stumble over
        raise CheckpointDamaged(f"{directory / name}: can't be read: {first_line(error)}") from error
    return state


def _is_complete(found: Any) -> bool:
    return bool(sum(chunk.sizes.numel() for chunk in found.chunks) == found.size.numel())


def _room(found: Any, wanted: Any) -> Any:
    if is_dtensor(wanted) and wanted.shape == found.size:
        return torch.empty_like(wanted.detach(), dtype=found.properties.dtype)
    return torch.empty(found.size, dtype=found.properties.dtype)


def _own_place(tensor: torch.Tensor, *, is_first: bool) -> list[int] | None:
    """Return where this process's part begins in the whole; None where there is nothing for it to write."""
    if not is_dtensor(tensor):
        return [0] * tensor.ndim if is_first else None
    if not local_part(tensor).numel() or _is_copy(tensor):
        return None
    (chunk,) = tensor.__create_chunk_list__()  # torch's own protocol for checkpoints
    return list(chunk.offsets)


def _is_copy(tensor: Any) -> bool:
    """Return whether another process has the same part, and is the one to write it."""
    coordinates = tensor.device_mesh.get_coordinate()
    replicated = (place for place, kind in zip(coordinates, tensor.placements, strict=True) if kind.is_replicate())
    return any(replicated)


def split_optimizer(state: dict[str, Any] | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return an optimizer's state dict without the `DTensor`s in it, and these by "<parameter>.<name>"."""
    parts: dict[str, Any] = {}
    if state is None:
        return None, parts
    kept: dict[Any, dict[str, Any]] = {}
    for number, values in state["state"].items():
        kept[number] = {}
        for name, value in values.items():
            if is_dtensor(value):
                parts[f"{number}.{name}"] = value
            else:
                kept[number][name] = value
    return state | {"state": kept}, parts


def joined_optimizer(state: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict that `split_optimizer` has taken apart."""
    joined = {number: dict(values) for number, values in state["state"].items()}
    for key, value in parts.items():
        number, _, name = key.partition(".")
        joined.setdefault(int(number), {})[name] = value
    return state | {"state": joined}
