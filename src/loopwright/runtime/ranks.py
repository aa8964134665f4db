"""The processes that train together, and what they tell one another apart from gradients.

    sum      of numbers, over the group that the gradients take
    agree    on small whole numbers, over a group of its own on the CPU: an accelerator's queue is not waited for
    gather   things to the first process        share     what the first process has
    of_first what a function returns there, or fails of
    bring    bytes, as they are, from one process to the first or to all

A process that fails says so in the store by which all found one another. Whoever then finds a collective broken looks
there, so that the first error is the one that people read, and not that of a connection that was closed. Or it says
that all are to begin anew: they leave the group that broke, and meet in another.
"""

from __future__ import annotations

import atexit
import contextlib
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from loopwright._support.env import read_int, read_text, set_variables
from loopwright._support.log import get_logger
from loopwright.errors import ArgumentError, Preempted, RankFailed, describe
from loopwright.runtime.randomness import set_seed

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

logger = get_logger(__name__)

# A rank whose collective broke may know it before the one that failed has come to saying why.
_SECONDS_FOR_A_REASON = 3.0
# Prime, and large, so that seeds that people count up don't meet.
_BETWEEN_SEEDS = 1_000_003
_BACKENDS = ("nccl", "gloo", "mpi", "ucc", "xccl", "hccl")
_SIGNS_OF_OTHERS = ("gloo", "Gloo", "NCCL", "Connection", "collective", "ProcessGroup", "peer")
# Of these each job has its own, so that two on one machine don't meet.
_FIRST_PORT, _NUM_PORTS = 20_000, 20_000
_KEY = "loopwright/failed"
# In there, before a reason to begin anew; and who failed instead of coming to that.
_ANEW = "anew: "
_MISSING_KEY = "loopwright/missing"
_SECONDS_BETWEEN_LOOKS = 0.05

_places: deque[Ranks] = deque(maxlen=1)


class Ranks:
    """This process's place among all that train together; one alone touches nothing of `torch.distributed`.

    Arguments:
        size: How many there are.
        index: Which this one is, counted from 0.
        device: What its collectives of tensors work on.

    Attributes:
        size: As given.
        index: As given.
        are_met_here: Whether the group is one that `join` made, and not somebody before it.
    """

    def __init__(self, size: int = 1, index: int = 0, device: torch.device | None = None) -> None:
        self.size = size
        self.index = index
        self.are_met_here = False
        self._device = device if device is not None and device.type == "cuda" else torch.device("cpu")
        self._group: Any = None
        self._timeout: timedelta | None = None

    @property
    def are_many(self) -> bool:
        """Whether there is more than one."""
        return self.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this is the first of all: the one that has the journal and writes checkpoints."""
        return self.index == 0

    # Coming and going

    @classmethod
    def join(cls, args: TrainingArguments) -> Ranks:
        """Return this process's place, having met the others: in the group that there is, or one made as `args` say.

        Raises:
            ArgumentError: there is no such backend.
            RuntimeError: torch's, where the others don't come within `ddp_timeout`.
        """
        if args.world_size == 1:
            return cls()
        ranks = cls(args.world_size, args.process_index, args.device)
        ranks.are_met_here = joined().are_met_here
        if not dist.is_initialized():
            import torch.distributed.nn.functional  # noqa: F401 -- imported later, its defaults hold the group for good

            _find_each_other_by_slurm()
            backend = args.ddp_backend or ("nccl" if args.device.type == "cuda" else "gloo")
            if not dist.is_backend_available(backend):
                there = [name for name in _BACKENDS if dist.is_backend_available(name)]
                raise ArgumentError(f"ddp_backend={backend!r}: expected one that torch has here, {', '.join(there)}")
            if backend == "nccl" and args.fsdp:
                backend = "cpu:gloo,cuda:nccl"  # what is offloaded is summed up where it is
            dist.init_process_group(
                backend,
                store=_meeting_place(ranks, args),
                rank=ranks.index,
                world_size=ranks.size,
                timeout=args.ddp_timeout_delta,
            )
            ranks.are_met_here = True
            atexit.register(_part)
        ranks._timeout = args.ddp_timeout_delta
        ranks._group = dist.new_group(backend="gloo", timeout=ranks._timeout)
        _places.append(ranks)
        return ranks

    def beside(self) -> Ranks:
        """Return the same processes with a group of their own, for what goes on in a thread; all have to call it."""
        another = Ranks(self.size, self.index, self._device)
        if self.are_many:
            another._group = dist.new_group(backend="gloo", timeout=self._timeout)
        return another

    # Randomness

    def seed(self, seed: int) -> int:
        """Return the seed that this process takes where each is to have another: the first process `seed` itself."""
        return (seed + self.index * _BETWEEN_SEEDS) % 2**32

    def part_streams(self, seed: int) -> None:
        """Let this process's random streams be others than the first one's: dropout is to differ."""
        if self.index:
            set_seed(self.seed(seed))

    # Numbers

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sums over all processes, in place: of numbers on the CPU over its own group, no device waiting."""
        if self.are_many:
            dist.all_reduce(numbers, group=self._group if numbers.device.type == "cpu" else None)
        return numbers

    def begin_sum(self, numbers: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to sum up `numbers`, on the CPU, over all processes; return what waits for the sums."""
        work = dist.all_reduce(numbers, group=self._group, async_op=True) if self.are_many else None

        def finish() -> torch.Tensor:
            if work is not None:
                work.wait()
            return numbers

        return finish

    def agree(self, numbers: Sequence[int]) -> list[int]:
        """Return the greatest over all processes at each place; each gives as many."""
        if not self.are_many:
            return list(numbers)
        vector = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(vector, dist.ReduceOp.MAX, group=self._group)
        found: list[int] = vector.tolist()
        return found

    # Things

    def gather(self, thing: Any) -> list[Any] | None:
        """Return each process's thing, in their order, to the first process; None to the others."""
        if not self.are_many:
            return [thing]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(thing, found, dst=0, group=self._group)
        return found

    def gather_to_all(self, thing: Any) -> list[Any]:
        """Return each process's thing, in their order, to all."""
        if not self.are_many:
            return [thing]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing, group=self._group)
        return found

    def share(self, thing: Any) -> Any:
        """Return what the first process gave."""
        if not self.are_many:
            return thing
        found = [thing]
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]

    def of_first(self, function: Callable[[], Any]) -> Any:
        """Return what `function` returns on the first process, which alone calls it; the others get it pickled.

        Raises:
            Exception: what `function` raises, on the first process; or it can't be pickled what it returns.
            RankFailed: on the others, naming that.
        """
        if not self.are_many:
            return function()
        found, data, error = None, b"", None
        if self.is_first:
            try:
                found = function()
                data = pickle.dumps(found)  # here, as an error in `share` would leave the others waiting
            except Exception as raised:
                error = raised
        data, reason = self.share((data, None if error is None else f"rank 0: {describe(error)}"))
        if error is not None:
            raise error
        if reason is not None:
            raise RankFailed(reason)
        return found if self.is_first else pickle.loads(data)  # noqa: S301 -- from our own first process

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Make `tensors`, of which each process has as many, on its device, what they are on the first."""
        if self.are_many:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def bring(self, data: torch.Tensor, source: int, *, to_all: bool) -> None:
        """Fill `data`, on the first process or on all, with what it is on process `source`.

        Arguments:
            data: Of type uint8, on the CPU; of the same size wherever it comes from or goes to. On the others it is not
                looked at.
            source: Who has it.
            to_all: Whether all get it.
        """
        if not self.are_many or not len(data):
            return
        if to_all:
            dist.broadcast(data, src=source, group=self._group)
        elif source != 0 and self.index == source:
            dist.send(data, dst=0, group=self._group)
        elif source != 0 and self.is_first:
            dist.recv(data, src=source, group=self._group)

    # Failing

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let an exception in here end the others too, and theirs be raised here as what it is.

        Raises:
            RankFailed: another process failed first.
        """
        if not self.are_many:
            yield
            return
        try:
            yield
        except Preempted:  # no failure, and agreed on
            raise
        except BaseException as error:
            first = self._first_failure(error)
            self._leave()
            if first is not None:
                raise RankFailed(first) from error
            raise

    def _first_failure(self, error: BaseException) -> str | None:
        """Return what another process failed of before, if that is why; else say that this one failed."""
        store = _store()
        if store is None or isinstance(error, RankFailed):  # which says already who was first
            return None
        own = f"rank {self.index}: {describe(error)}"
        follows = _follows_from_another(error)
        try:
            if follows:
                _wait_for_a_reason(store)
            first: str = store.compare_set(_KEY, "", own).decode()
            if first.startswith(_ANEW):
                store.set(_MISSING_KEY, own)  # the others wait for this process
                first = first.removeprefix(_ANEW)
        except RuntimeError as lost:  # the store went with its process
            logger.debug("why the others failed can't be said: %s", lost)
            return None
        # What this process has raised by itself, such as what Ctrl-C makes of all, is what it ends by.
        return first if follows and first != own else None

    def _leave(self) -> None:
        """Close the connections: whoever waits for this process in a collective learns it at once."""
        abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
        with contextlib.suppress(Exception):  # the error that brought us here is what counts
            if self._device.type == "cuda" and abort is not None:
                abort()  # destroying waits for what NCCL has in its queue, and that may never end
            else:
                dist.destroy_process_group()

    # Beginning anew

    def why_begin_anew(self, error: BaseException, own: str | None) -> str | None:
        """Return why all processes are to begin anew, or None where `error` is to end them.

        Arguments:
            error: What was raised in this process.
            own: Why it wants to begin anew; None where it doesn't, but follows one that does.
        """
        store = _store()
        if not self.are_many or store is None:
            return own
        first = ""
        with contextlib.suppress(RuntimeError):  # the store went with its process: nobody begins anew
            if own is not None:
                first = store.compare_set(_KEY, "", f"{_ANEW}rank {self.index}: {own}").decode()
            elif _follows_from_another(error) and _wait_for_a_reason(store):
                first = store.get(_KEY).decode()
        return first.removeprefix(_ANEW) if first.startswith(_ANEW) else None

    def meet_again(self) -> None:
        """Leave the group that broke, and form another once all have.

        On a CPU the others notice it only if nothing here holds the group any more; `DistributedDataParallel` does.

        Raises:
            RankFailed: one of them doesn't come.
        """
        if not self.are_many:
            return
        store, backend = _store(), dist.get_backend_config()
        self._group = None  # gloo closes its connections with the last that holds them
        self._leave()
        place = PrefixStore("again", store)  # within that of the meeting before
        place.set(f"here/{self.index}", "")
        self._wait_for_all(place, store)
        dist.init_process_group(backend, store=place, rank=self.index, world_size=self.size, timeout=self._timeout)
        self._group = dist.new_group(backend="gloo", timeout=self._timeout)

    def _wait_for_all(self, place: Any, store: Any) -> None:
        until = time.monotonic() + (self._timeout or timedelta()).total_seconds()
        while not place.check([f"here/{index}" for index in range(self.size)]):
            if store.check([_MISSING_KEY]):
                raise RankFailed(store.get(_MISSING_KEY).decode())
            if time.monotonic() > until:
                raise RankFailed(f"not all {self.size} processes have come to begin anew within {self._timeout}")
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def joined() -> Ranks:
    """Return this process's place as it was found last; one alone where it hasn't met others."""
    return _places[-1] if _places else Ranks()


def _meeting_place(ranks: Ranks, args: TrainingArguments) -> Any:
    """Return the store by which the processes find one another, as torch's variables say where it is.

    One that torchrun keeps over a restart still holds the addresses of the processes before, hence the prefix.
    """
    found = rendezvous("env://", ranks.index, ranks.size, timeout=args.ddp_timeout_delta)
    store = next(iter(found))[0]
    return PrefixStore(f"loopwright/{read_text('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _part() -> None:
    """Leave the group that was made here, where that hasn't happened yet."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _find_each_other_by_slurm() -> None:
    """Where Slurm has started the processes: say in torch's variables where the first one is."""
    host, job = read_text("SLURM_LAUNCH_NODE_IPADDR"), read_int("SLURM_JOB_ID", 0)
    if host is not None and read_text("MASTER_ADDR") is None:
        set_variables({"MASTER_ADDR": host})
    if job and read_text("MASTER_PORT") is None:
        set_variables({"MASTER_PORT": str(_FIRST_PORT + job % _NUM_PORTS)})


def _store() -> Any:
    find = getattr(dist.distributed_c10d, "_get_default_store", None)
    return find() if find is not None and dist.is_initialized() else None


def _wait_for_a_reason(store: Any) -> bool:
    """Wait a little until somebody has said why collectives broke; return whether anybody has."""
    until = time.monotonic() + _SECONDS_FOR_A_REASON
    while not (found := store.check([_KEY])) and time.monotonic() < until:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return bool(found)


def _follows_from_another(error: BaseException) -> bool:
    """Return whether the error says that a collective broke, which is never its own reason."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _SIGNS_OF_OTHERS)
