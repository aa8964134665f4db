"""Memory that grows in place: what has been written is never copied to make room for more."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.errors import DataError

_Array = np.ndarray[Any, Any]

_IS_LINUX = sys.platform == "linux"
# In a file room costs disk whether it is used or not; in memory it costs nothing until it is written.
_GROWTH_IN_MEMORY, _GROWTH_IN_FILE = 2.0, 1.25


class GrowingArray:
    """A one-dimensional array to append to.

    Its memory is a mapping, which Linux can lengthen without a copy; elsewhere it is copied, each time into one much
    larger, so the time stays linear in what is appended.

    Arguments:
        dtype: Of its elements.
        capacity: How many there will be, as far as is known.
        directory: Where to keep them in a file that has no name and is gone with the process; None for in memory.

    Attributes:
        size: How many there are.
    """

    def __init__(self, dtype: np.dtype[Any], capacity: int, directory: Path | str | None = None) -> None:
        self.dtype = dtype
        self.directory = directory
        self.size: int = 0
        self._file = None if directory is None else _unnamed_file(directory)
        if self._file is not None:
            weakref.finalize(self, self._file.close)  # arrays that were handed out keep the mapping, which needs none
        self._mapping: mmap.mmap | None = None
        self._room: _Array = np.empty(0, dtype)
        self._reserve(max(capacity, 1))

    def append(self, values: _Array) -> None:
        """Add the elements of an array of any shape, row by row.

        Raises:
            DataError: the disk is full.
        """
        end = self.size + values.size
        if end > len(self._room):
            growth = _GROWTH_IN_MEMORY if self._file is None else _GROWTH_IN_FILE
            self._reserve(max(end, int(growth * len(self._room))))
        self._room[self.size : end] = values.reshape(-1)
        self.size = end

    def lengthen(self, size: int) -> None:
        """Make it hold `size` elements, the new ones of any value."""
        if size > len(self._room):
            self._reserve(size)
        self.size = size

    def array(self) -> _Array:
        """Return its elements, in its own memory."""
        return self._room[: self.size]

    def copy(self, dtype: np.dtype[Any]) -> GrowingArray:
        """Return another with the same elements, as `dtype`."""
        other = GrowingArray(dtype, len(self._room), self.directory)
        other.append(self.array())
        return other

    def _reserve(self, capacity: int) -> None:
        num_bytes = capacity * self.dtype.itemsize
        if self._file is not None:
            self._take_disk(self._file.fileno(), num_bytes)
        self._room = np.empty(0, self.dtype)  # a mapping that is looked into can't be moved
        if self._mapping is None:
            self._mapping = self._map(num_bytes)
        elif _IS_LINUX:
            self._mapping.resize(num_bytes)
        else:
            longer = self._map(num_bytes)
            if self._file is None:
                longer[: self.size * self.dtype.itemsize] = self._mapping[: self.size * self.dtype.itemsize]
            self._mapping = longer
        self._room = np.frombuffer(self._mapping, self.dtype, capacity)

    def _map(self, num_bytes: int) -> mmap.mmap:
        if self._file is not None:
            return mmap.mmap(self._file.fileno(), num_bytes)
        # Private, or the system could lengthen the mapping and not what is mapped.
        mapping = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapping.madvise(mmap.MADV_HUGEPAGE)  # a fault for every 4 KiB would take longer than the copying
        return mapping

    def _take_disk(self, descriptor: int, num_bytes: int) -> None:
        """Have the disk set room aside: a full one is an error here, and the process's death at a write."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, num_bytes)
            else:
                os.ftruncate(descriptor, num_bytes)
        except OSError as error:
            raise DataError(
                f"eval_spill_dir={str(self.directory)!r} has no room for {num_bytes / 1e6:.0f} MB: {error.strerror}"
            ) from error


def _unnamed_file(directory: Path | str) -> Any:
    try:
        return tempfile.TemporaryFile(dir=directory, prefix="loopwright-outputs-")
    except OSError as error:
        raise DataError(f"eval_spill_dir={str(directory)!r}: no file can be made there: {error.strerror}") from error
