"""Copy the state of a training in memory, into buffers that are kept from one copy to the next.

Memory that was never written to costs five times the copying itself, as the system hands it out page by page; hence
the buffers, which hold as much again as the state. From a CUDA device the copy goes into pinned memory on a stream of
its own, and only the next change of the weights has to wait for it (`fence`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch


class Buffers:
    """The memory that holds one copy of a training's state; another copy overwrites it."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)
        self._used: list[tuple[tuple[int, bool], torch.Tensor]] = []
        self._streams: dict[torch.device, Any] = {}
        self._copied: list[Any] = []

    def copy(self, nested: Any) -> Any:
        """Return a copy of `nested`: tensors that share memory share it in the copy too, in dicts, lists and tuples.

        Tensors on a CUDA device are there only once `wait` has returned.
        """
        self._free_all()
        storages: dict[Any, torch.Tensor] = {}
        copied = self._copy(nested, storages, _shares(nested))
        self._copied = [stream.record_event() for stream in self._streams.values()]
        return copied

    def reserve(self, nested: Any) -> None:
        """Get the memory for a copy of `nested` ready, so that the first one is as fast as the next."""
        self._free_all()
        for size, is_pinned in _sizes(nested):
            self._take(size, is_pinned).zero_()  # the system gives a page when it is first written to
        self._free_all()

    def fence(self) -> None:
        """Let what the devices do from here on begin after the copying; the caller goes on at once."""
        for event in self._copied:
            event.wait()

    def wait(self) -> None:
        """Block until the copy is there."""
        for event in self._copied:
            event.synchronize()

    def _free_all(self) -> None:
        for size, buffer in self._used:
            self._free[size].append(buffer)
        self._used = []

    def _take(self, size: int, is_pinned: bool) -> torch.Tensor:
        free = self._free[size, is_pinned]
        buffer = free.pop() if free else torch.empty(size, dtype=torch.uint8, pin_memory=is_pinned)
        self._used.append(((size, is_pinned), buffer))
        return buffer

    def _copy(self, nested: Any, storages: dict[Any, torch.Tensor], shares: Mapping[Any, int]) -> Any:
        if isinstance(nested, torch.Tensor):
            return self._copy_tensor(nested, storages, shares)
        if type(nested) in (list, tuple):
            return type(nested)(self._copy(item, storages, shares) for item in nested)
        if isinstance(nested, Mapping) and type(nested).__name__ in ("dict", "OrderedDict"):
            return {key: self._copy(value, storages, shares) for key, value in nested.items()}
        return copy.deepcopy(nested)

    def _copy_tensor(self, tensor: torch.Tensor, storages: dict[Any, torch.Tensor], shares: Mapping[Any, int]) -> Any:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
            return tensor.detach().clone()
        if tensor.is_conj() or tensor.is_neg():  # its memory holds something else than it
            return tensor.detach().clone()
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if _is_small_part(tensor, shares):
            if (place := _place(tensor)) not in storages:
                whole = self._take(tensor.nbytes, tensor.is_cuda)
                storages[place] = whole.view(tensor.dtype).view(tensor.shape) if tensor.numel() else tensor.clone()
                self._move(storages[place], tensor)
            return storages[place]
        key = _key(tensor)
        if key not in storages:
            storages[key] = self._take(storage.nbytes(), tensor.is_cuda)
            self._move(storages[key], torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage))
        copied = torch.empty(0, dtype=tensor.dtype)
        return copied.set_(storages[key].untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())

    def _move(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if not source.is_cuda:
            target.copy_(source)
            return
        if (stream := self._streams.get(source.device)) is None:
            stream = self._streams[source.device] = torch.cuda.Stream(source.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        source.record_stream(stream)  # its memory isn't given to another tensor before


def _tensors_in(nested: Any) -> Iterator[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from _tensors_in(value)
    elif isinstance(nested, (list, tuple)):
        for item in nested:
            yield from _tensors_in(item)


def _shares(nested: Any) -> dict[Any, int]:
    """Return how many bytes of each storage the tensors in `nested` use."""
    shares: defaultdict[Any, int] = defaultdict(int)
    seen = set()
    for tensor in _tensors_in(nested):
        if tensor.layout is torch.strided and (place := _place(tensor)) not in seen:
            seen.add(place)
            shares[_key(tensor)] += tensor.nbytes
    return shares


def _sizes(nested: Any) -> list[tuple[int, bool]]:
    shares, seen, sizes = _shares(nested), set(), []
    for tensor in _tensors_in(nested):
        if tensor.layout is not torch.strided:
            continue
        is_part = _is_small_part(tensor, shares)
        if (key := _place(tensor) if is_part else _key(tensor)) not in seen:
            seen.add(key)
            sizes.append((tensor.nbytes if is_part else tensor.untyped_storage().nbytes(), tensor.is_cuda))
    return sizes


def _key(tensor: torch.Tensor) -> Any:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _place(tensor: torch.Tensor) -> Any:
    return _key(tensor), tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype


def _is_small_part(tensor: torch.Tensor, shares: Mapping[Any, int]) -> bool:
    """Return whether its storage holds much beside the tensors that are copied: then they are copied one by one."""
    return 2 * shares[_key(tensor)] < tensor.untyped_storage().nbytes()
