"""Write and read files of `torch.save` that hold tensors and plain values, and nothing that takes executing a pickle.

What can't be read back under `weights_only=True` is refused when it is written, not at the resume.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import Counter, OrderedDict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loopwright.errors import CheckpointDamaged, CheckpointError

_reconstruct: Any = np.empty(0).__reduce__()[0]  # private in NumPy, and moved between its versions 1 and 2


def numpy_arrays_allowed() -> AbstractContextManager[None]:
    """Within this context, NumPy arrays of plain numbers may be read too: `rng_state.pth` holds one."""
    return torch.serialization.safe_globals(
        [
            (_reconstruct, "numpy._core.multiarray._reconstruct"),
            (_reconstruct, "numpy.core.multiarray._reconstruct"),
            np.ndarray,
            np.dtype,
            type(np.dtype(np.uint32)),
        ]
    )


def save_plain(value: Any, file: Path) -> None:
    """Write `value` to `file`.

    Raises:
        CheckpointError: it holds objects that only executing a pickle could build again.
    """
    # Through a file of Python's: when the disk is full, torch's own writer doesn't say so.
    with file.open("wb") as stream:
        torch.save(_plain(value), stream)
    if foreign := torch.serialization.get_unsafe_globals_in_checkpoint(file):
        raise CheckpointError(
            f"{file.name} would hold {', '.join(sorted(foreign))}: only tensors and plain values (numbers, text, "
            "lists, dicts) can be read back without executing a pickle"
        )


def load_plain(file: Path) -> Any:
    """Read what `save_plain` wrote, onto the CPU; nothing in the file is executed.

    Raises:
        CheckpointDamaged: the file is not such a file, or no longer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle protocols, to file an issue among others
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))  # the rest is advice to have the file executed
        what = f"holds {found[1]}, which only executing it could read" if found else "is damaged"
        raise CheckpointDamaged(f"{file}: {what}; expected tensors and plain values") from error
    except Exception as error:  # whatever a damaged file makes the readers of zip, pickle and storages stumble over
        raise CheckpointDamaged(f"{file}: can't be read: {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message; torch appends the stack of its C++ side."""
    return str(error).strip().partition("\n")[0][:300]


def _plain(value: Any) -> Any:
    """Return `value` with NumPy's numbers as Python's, and dicts of other kinds as plain ones."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Counter):  # MultiStepLR counts in one
        return value
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((_plain(key), _plain(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value
