"""Write and read files of `torch.save` that hold tensors and plain values, and nothing that takes executing a pickle.

What can't be read back under `weights_only=True` is refused when it is written, not at the resume.
"""

from __future__ import annotations

import pickle
import re
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from loopwright._support.files import FileRecord, create_file
from loopwright.errors import CheckpointDamaged, CheckpointError

_reconstruct: Any = np.empty(0).__reduce__()[0]  # private in NumPy, and moved between its versions 1 and 2
_ARRAY_GLOBALS: list[Any] = [
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
]
_ARRAY_NAMES = frozenset(name for _, name in _ARRAY_GLOBALS)
# Numbers of every width: such an array's bytes can become nothing but numbers.
_ARRAY_DTYPES = frozenset(type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"])

_allowing = threading.RLock()


@contextmanager
def numpy_arrays_allowed() -> Iterator[None]:
    """Within this context, NumPy arrays of plain numbers may be read too: `rng_state.pth` holds one."""
    # torch keeps one list for the whole process and puts the old one back in the end: of two threads, the first to go
    # would take the other's permission along, hence the lock. Registering the names for good would need none, but
    # change what the user's own torch.load accepts. Writing doesn't touch that list: see `save_plain`.
    with _allowing, torch.serialization.safe_globals([*_ARRAY_GLOBALS, *_ARRAY_DTYPES]):
        yield


def save_plain(value: Any, file: Path, *, arrays: bool = False) -> FileRecord:
    """Write `value` to `file`, durably, and return the file's size and digest.

    Threads may call it side by side: it changes nothing that belongs to the process.

    Arguments:
        value: Tensors and plain values, in lists and dicts.
        file: Where to.
        arrays: Whether NumPy arrays of plain numbers may be among them; reading takes `numpy_arrays_allowed` then.

    Raises:
        CheckpointError: it holds objects that only executing a pickle could build again.
        OSError: the file could not be written.
    """
    # Through a file of Python's: when the disk is full, torch's own writer doesn't say so.
    with create_file(file) as stream:
        torch.save(_plain(value), cast("IO[bytes]", stream))
    foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    if arrays:
        foreign = foreign - _ARRAY_NAMES | _odd_arrays(value)
    if foreign:
        raise CheckpointError(
            f"{file.name} would hold {', '.join(sorted(foreign))}: only tensors and plain values (numbers, text, "
            "lists, dicts) can be read back without executing a pickle"
        )
    return stream.record


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


def _odd_arrays(value: Any) -> set[str]:
    """Return the names of dtypes of arrays in `value` that hold other things than numbers."""
    if isinstance(value, np.ndarray):
        return set() if type(value.dtype) in _ARRAY_DTYPES else {f"an array of {value.dtype}"}
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        items = value
    return set().union(*map(_odd_arrays, items))
