"""Write tensors as a safetensors file, straight from their memory and digested on the way; safetensors reads it.

    8 bytes                 length of the header, little-endian
    header                  JSON: dtype, shape and place of each tensor, and the metadata; padded with spaces to 8 bytes
    bytes of the tensors    C order, little-endian, the widest dtype first so that each lies aligned

The format: https://github.com/huggingface/safetensors#format. safetensors' own writer takes a path, so its file could
only be digested by reading it again, and its releases before 0.8 copy all tensors before the first byte is written.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from loopwright._support.files import FileRecord, create_file


def write_tensors(tensors: Mapping[str, torch.Tensor], file: Path, metadata: Mapping[str, str]) -> FileRecord:
    """Write `tensors` and `metadata` to `file`, durably, and return the file's size and digest.

    Memory is needed for one tensor at most: one that is not contiguous, or not in the CPU's memory.

    Arguments:
        tensors: Of dtypes that `is_storable` knows. Those that share memory are written once each.
        file: Where to.
        metadata: Any text; safetensors' readers for torch expect "format" to be "pt".

    Raises:
        OSError: the file could not be written.
    """
    in_order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in in_order:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = _described(tensor) | {"data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with create_file(file) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in in_order:
            stream.write(_bytes_of(tensor))
    return stream.record


def is_storable(dtype: torch.dtype) -> bool:
    """Return whether the installed safetensors has a name for `dtype`: complex128, quantized and some have none."""
    return _stored_as(dtype) is not None


def _described(tensor: torch.Tensor) -> dict[str, object]:
    stored_as = _stored_as(tensor.dtype)
    if stored_as is None:
        raise TypeError(f"safetensors has no {tensor.dtype}")
    name, packed = stored_as
    shape = list(tensor.shape)
    if packed > 1:
        shape[-1] *= packed
    return {"dtype": name, "shape": shape}


@functools.cache
def _stored_as(dtype: torch.dtype) -> tuple[str, int] | None:
    """Return safetensors' name of the dtype and how many numbers of the file are one element of torch's."""
    # Asked of safetensors itself: what it writes it reads, in whichever release is installed.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on some of the odder dtypes
            one = torch.empty(1, dtype=dtype)
        written = safetensors.torch.save({"": one})
    except (KeyError, ValueError, RuntimeError):
        return None
    length = int.from_bytes(written[:8], "little")
    described = json.loads(written[8 : 8 + length])[""]
    return described["dtype"], described["shape"][0]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the tensor's bytes as the file has them: its own memory where that is contiguous and on the CPU."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    content = flat.view(torch.uint8)
    if sys.byteorder == "big":
        width = flat.element_size() // (2 if flat.is_complex() else 1)
        content = content.reshape(-1, width).flip(1).reshape(-1)
    return content.numpy().data
