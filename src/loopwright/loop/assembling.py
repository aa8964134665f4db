"""Put what several processes have evaluated in the order of one process that had evaluated all of it.

    batches of one process    0 1 2 | 3 4 5 | 6         each process has the next one in turn
    process 0                 0       3       6
    process 1                   1       4
    process 2                     2       5

Over the wire, through the group on the CPU, go for every batch the bytes of its arrays as they are in memory, without
any padding, and how they are nested, pickled. Some tens of MB of batches are under way at once, which the receiver
copies to their place: so its memory at the height is that of the whole, of its own part, and of these. Who gets nothing
needs no more than its own part.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loopwright.data.nesting import map_leaves

if TYPE_CHECKING:
    from loopwright.loop.gather import OutputCollector
    from loopwright.runtime.ranks import Ranks

_BYTES_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class _Leaf:
    """What stands in the place of an array or a tensor whose bytes come after; a tensor's type is torch's."""

    shape: tuple[int, ...]
    dtype: str | torch.dtype


def in_turn(parts: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Yield the first of each part, then the second of each that has one, and so on."""
    for number in range(max(map(len, parts), default=0)):
        for part in parts:
            if number < len(part):
                yield part[number]


def assemble(ranks: Ranks, own: OutputCollector, *, num_rows: int | None, to_all: bool) -> Any:
    """Return as arrays what the collectors of all processes hold; all have to call it.

    Arguments:
        ranks: The processes.
        own: This process's part.
        num_rows: Of the whole, as far as is known.
        to_all: Whether all get the arrays, or the first process alone.

    Returns:
        As `OutputCollector.arrays`; None to those who get nothing.

    Raises:
        DataError: the parts can't be joined.
    """
    num_batches = own.num_batches
    longest, size_of_batch = ranks.agree([num_batches, own.num_bytes // max(num_batches, 1)])
    at_once = max(1, _BYTES_AT_ONCE // (ranks.size * max(size_of_batch, 1)))
    whole = own.whole(num_rows)
    for begin in range(0, longest, at_once):
        for batch in in_turn(exchange(ranks, own.batches(begin, begin + at_once), to_all=to_all)):
            whole.add(batch)
    return whole.arrays()


def exchange(ranks: Ranks, batches: Sequence[Any], *, to_all: bool) -> list[list[Any]]:
    """Return the batches of each process, in their order; empty lists to those who get nothing.

    Arguments:
        ranks: The processes.
        batches: This process's: nested tensors and arrays, on whatever device; what else is in them is pickled.
        to_all: Whether all get them, or the first process alone.

    Returns:
        Tensors on the CPU and arrays, which may lie in memory that they share.
    """
    form, size, arrays = _taken_apart(batches)
    sizes: list[tuple[int, int]] = ranks.gather_to_all((len(form), size))
    gets = to_all or ranks.is_first
    found: list[list[Any]] = []
    for source, (size_of_form, size_of_arrays) in enumerate(sizes):
        is_own = source == ranks.index
        data = torch.empty(size_of_form + size_of_arrays if is_own or gets else 0, dtype=torch.uint8)
        if is_own:
            _write(data.numpy(), form, arrays)
        ranks.bring(data, source, to_all=to_all)
        found.append(_put_together(data.numpy(), size_of_form) if gets else [])
    return found


class Rounds:
    """Measures the batches of all processes on the first, one by one in the order of one process: `batch_eval_metrics`.

    All processes come to a round together: with a batch, or with none once they have had theirs.

    Arguments:
        ranks: The processes.
        measure: Called on the first process with each batch, and whether it is the last of all.

    Attributes:
        is_over: Whether there is no further round: all batches are measured, or `measure` has raised.
        error: What it raised.
    """

    def __init__(self, ranks: Ranks, measure: Callable[[Any, bool], None]) -> None:
        self.ranks = ranks
        self.measure = measure
        self.is_over = False
        self.error: Exception | None = None

    def come(self, batches: Sequence[Any], *, has_following: bool) -> None:
        """Bring a batch, or none, to the next round.

        Arguments:
            batches: One or none.
            has_following: Whether this process comes with a batch again.
        """
        if self.is_over:
            return
        goes_on, has_failed = self.ranks.agree([has_following, self.error is not None])
        self.is_over = not goes_on or bool(has_failed)
        if has_failed:
            return
        found = list(in_turn(exchange(self.ranks, batches, to_all=False)))
        try:
            for number, batch in enumerate(found, start=1):
                self.measure(batch, not goes_on and number == len(found))
        except Exception as error:  # the others hear of it at the next round, or when the metrics are shared
            self.error = error

    def finish(self) -> None:
        """Come to all further rounds with nothing."""
        while not self.is_over:
            self.come([], has_following=False)


def _taken_apart(batches: Sequence[Any]) -> tuple[bytes, int, list[Any]]:
    """Return how batches are nested, pickled; the number of bytes in their arrays; and these, in their order."""
    arrays: list[Any] = []

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, (torch.Tensor, np.ndarray)):
            return leaf
        arrays.append(leaf)
        return _Leaf(tuple(leaf.shape), leaf.dtype if isinstance(leaf, torch.Tensor) else leaf.dtype.str)

    form = pickle.dumps([map_leaves(batch, stand_in) for batch in batches], protocol=pickle.HIGHEST_PROTOCOL)
    return form, sum(array.nbytes for array in arrays), arrays


def _write(room: np.ndarray[Any, Any], form: bytes, arrays: Iterable[Any]) -> None:
    room[: len(form)] = np.frombuffer(form, np.uint8)
    end = len(form)
    for array in arrays:
        begin, end = end, end + array.nbytes
        if isinstance(array, torch.Tensor):
            data = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        else:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        room[begin:end] = data


def _put_together(data: np.ndarray[Any, Any], size_of_form: int) -> list[Any]:
    """Return the batches that `data` holds; its bytes come from this very program in another process."""
    end = size_of_form

    def take(leaf: Any) -> Any:
        nonlocal end
        if not isinstance(leaf, _Leaf):
            return leaf
        if isinstance(leaf.dtype, torch.dtype):
            tensor = torch.empty(leaf.shape, dtype=leaf.dtype)  # a tensor's bytes have to be aligned
            begin, end = end, end + tensor.nbytes
            tensor.reshape(-1).view(torch.uint8).numpy()[:] = data[begin:end]
            return tensor
        array: np.ndarray[Any, Any] = np.ndarray(leaf.shape, np.dtype(leaf.dtype), data, offset=end)
        end += array.nbytes
        return array

    forms = pickle.loads(data[:size_of_form].tobytes())  # noqa: S301 -- from our own processes
    return [map_leaves(batch, take) for batch in forms]
