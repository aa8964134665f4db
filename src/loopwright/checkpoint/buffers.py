"""Copy the state of a training in memory, into buffers that are kept from one copy to the next.

Memory that was never written to costs five times the copying itself, as the system hands it out page by page; hence
the buffers, which hold as much again as the state. Where each tensor's copy lies is worked out once, and stands for as
long as the tensor stays where it is. From a CUDA device the copy goes into pinned memory on a stream of its own, and
only the next change of the weights has to wait for it (`fence`).
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

_SEQUENCES, _DICTS = (list, tuple), (dict, OrderedDict)
_NOTHING = torch.empty(0)
_UNCHANGING = frozenset({int, float, str, bool, type(None)})


class Buffers:
    """The memory that holds one copy of a training's state; another copy overwrites it."""

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)
        self._groups: dict[Any, _Group] = {}  # by storage
        self._plan = _Plan()
        self._streams: dict[torch.device, Any] = {}
        self._copied: list[Any] = []

    def copy(self, nested: Any) -> Any:
        """Return a copy of `nested`: tensors that share memory share it in the copy too, in dicts, lists and tuples.

        Tensors on a CUDA device are there only once `wait` has returned.
        """
        copies = iter(self._copy_all(list(_tensors_in(nested))))
        self._copied = [stream.record_event() for stream in self._streams.values()]
        return _rebuilt(nested, copies)

    def reserve(self, nested: Any) -> None:
        """Get the memory for a copy of `nested` ready, so that the first one is as fast as the next."""
        self._follow(list(_tensors_in(nested)))
        for group in self._groups.values():
            for buffer in group.buffers:
                buffer.zero_()  # the system gives a page when it is first written to

    def fence(self) -> None:
        """Let what the devices do from here on begin after the copying; the caller goes on at once."""
        for event in self._copied:
            event.wait()

    def wait(self) -> None:
        """Block until the copy is there."""
        for event in self._copied:
            event.synchronize()

    @torch.no_grad()
    def _copy_all(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        plan = self._follow(tensors)
        for target, index in plan.moves:
            self._move(target, tensors[index])
        for target, index in plan.whole_moves:
            self._move(target, _bytes_of(tensors[index]))
        copies = list(plan.copies)
        for index in plan.others:
            copies[index] = tensors[index].detach().clone()
        return copies

    def _follow(self, tensors: list[torch.Tensor]) -> _Plan:
        """Return the plan for `tensors`: the last one, where they are what they were and where they were."""
        whereabouts = [_whereabouts(tensor) for tensor in tensors]
        if whereabouts != self._plan.whereabouts or self._plan.has_other_sizes(tensors):
            self._plan = _Plan()  # what the old one refers to is free
            self._plan = self._make_plan(tensors, whereabouts)
        return self._plan

    def _make_plan(self, tensors: list[torch.Tensor], whereabouts: list[Any]) -> _Plan:
        by_storage: dict[Any, list[int]] = {}
        for index, tensor in enumerate(tensors):
            if whereabouts[index] is not None:
                storage = tensor.untyped_storage()
                by_storage.setdefault((tensor.device, storage.data_ptr(), storage.nbytes()), []).append(index)
        places = {key: [_place(tensors[index]) for index in members] for key, members in by_storage.items()}
        for key in [key for key, group in self._groups.items() if places.get(key) != group.places]:
            group = self._groups.pop(key)
            for buffer in group.buffers:
                self._free[buffer.nbytes, group.is_pinned].append(buffer)
        plan = _Plan(whereabouts, [_NOTHING] * len(tensors))
        plan.others = [index for index, whereabout in enumerate(whereabouts) if whereabout is None]
        for key, members in by_storage.items():
            if key not in self._groups:
                self._groups[key] = self._group([tensors[index] for index in members], places[key])
            group = self._groups[key]
            for target, member in group.moves:
                if member is None:
                    plan.whole_moves.append((target, members[0]))
                else:
                    plan.moves.append((target, members[member]))
            for index, copied in zip(members, group.copies, strict=True):
                plan.copies[index] = copied
        return plan

    def _group(self, tensors: list[torch.Tensor], places: list[Any]) -> _Group:
        """Choose where the copies of `tensors`, all in one storage, are to lie."""
        group = _Group(places, is_pinned=tensors[0].is_cuda)
        storage = tensors[0].untyped_storage()
        sizes = {place: tensor.nbytes for place, tensor in zip(places, tensors, strict=True)}
        if 2 * sum(sizes.values()) < storage.nbytes():  # it holds much beside them: they are copied one by one
            made: dict[Any, torch.Tensor] = {}
            for member, (place, tensor) in enumerate(zip(places, tensors, strict=True)):
                if place not in made:
                    made[place] = self._take(tensor.nbytes, group).view(tensor.dtype).view(tensor.shape)
                    group.moves.append((made[place], member))
                group.copies.append(made[place])
            return group
        whole = self._take(storage.nbytes(), group)
        for offset, size, stride, dtype in places:
            empty = torch.empty(0, dtype=dtype)
            group.copies.append(empty.set_(whole.untyped_storage(), offset, size, stride))
        fills = [tensor.is_contiguous() and tensor.nbytes == storage.nbytes() for tensor in tensors]
        filling = fills.index(True) if True in fills else None
        group.moves.append((whole if filling is None else group.copies[filling], filling))
        return group

    def _take(self, size: int, group: _Group) -> torch.Tensor:
        free = self._free[size, group.is_pinned]
        buffer = free.pop() if free else torch.empty(size, dtype=torch.uint8, pin_memory=group.is_pinned)
        group.buffers.append(buffer)
        return buffer

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


@dataclass(slots=True)
class _Plan:
    """What to do to copy tensors, for as long as they stay where they are.

    Attributes:
        whereabouts: Of each tensor; None for one that has to be cloned.
        copies: What each is copied to.
        moves: What is to be written: the target, and which tensor.
        whole_moves: The same for a tensor's whole storage.
        others: Those that have to be cloned.
    """

    whereabouts: list[Any] = field(default_factory=list)
    copies: list[torch.Tensor] = field(default_factory=list)
    moves: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    whole_moves: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    def has_other_sizes(self, tensors: list[torch.Tensor]) -> bool:
        """Return whether a storage has grown or shrunk around its tensors."""
        return any(target.nbytes != tensors[index].untyped_storage().nbytes() for target, index in self.whole_moves)


@dataclass(slots=True)
class _Group:
    """Tensors that lie in one storage.

    Attributes:
        places: Where in it, each tensor's offset, size, stride and type.
        is_pinned: Whether the buffers are in pinned memory.
        copies: What they are copied to, in the same order.
        moves: What is to be written: the target, and which of the tensors, or None for the whole storage.
        buffers: The memory of it.
    """

    places: list[Any]
    is_pinned: bool
    copies: list[torch.Tensor] = field(default_factory=list)
    moves: list[tuple[torch.Tensor, int | None]] = field(default_factory=list)
    buffers: list[torch.Tensor] = field(default_factory=list)


def _whereabouts(tensor: torch.Tensor) -> Any:
    """Return what a tensor is and where; None for one that isn't just what its storage holds."""
    kind = type(tensor)
    if (kind is not torch.Tensor and kind is not torch.nn.Parameter) or tensor.layout is not torch.strided:
        return None
    if tensor.is_conj() or tensor.is_neg() or not tensor.numel():
        return None
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def _place(tensor: torch.Tensor) -> Any:
    return tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole storage that a tensor lies in."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _tensors_in(nested: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in `nested`, in the order in which `_rebuilt` takes their copies."""
    if isinstance(nested, torch.Tensor):
        yield nested
    elif type(nested) in _SEQUENCES:
        for item in nested:
            yield from _tensors_in(item)
    elif type(nested) in _DICTS:
        for value in nested.values():
            yield from _tensors_in(value)


def _rebuilt(nested: Any, copies: Iterator[Any]) -> Any:
    kind = type(nested)
    if kind in _UNCHANGING:
        return nested
    if isinstance(nested, torch.Tensor):
        return next(copies)
    if kind in _SEQUENCES:
        is_plain = _UNCHANGING.issuperset(map(type, nested))
        return kind(nested) if is_plain else kind([_rebuilt(item, copies) for item in nested])
    if kind in _DICTS:
        return {key: _rebuilt(value, copies) for key, value in nested.items()}
    return copy.deepcopy(nested)
