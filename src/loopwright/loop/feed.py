"""The batches of a training: handed out, used, and handed out again after a crash, each exactly once.

    epoch begins ── random states noted ── iterator made ── batches handed out ── each used ── epoch ends

Where a training stands in its data is: the epoch, the batches that it has used, the random states that the epoch began
with, the loader's own state where it has one, and batches that were handed out and not yet used.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from loopwright._support.log import Logger, get_logger
from loopwright.data.continuing import carrier_of, is_read_past, iterate_from, read_past, why_read_past
from loopwright.data.drawing import drawer
from loopwright.data.loaders import SeededLoader, begin_epoch, generators_of
from loopwright.data.nesting import as_plain
from loopwright.data.numbering import batch_seed, number_batches, source_of
from loopwright.data.samplers import EpochSampler
from loopwright.data.waiting import end_workers, poll_while_waiting
from loopwright.errors import CheckpointError, describe
from loopwright.runtime.randomness import capture_randomness, restore_randomness

logger: Logger = get_logger(__name__)


class Feed:
    """Iterates over a training's batches, epoch by epoch.

    Arguments:
        loader: The training loader, or any iterable of batches.
        seed: Of everything that is drawn for the data in worker processes.
        check: Called while a worker is waited for; may raise. None where signals are none of the training's business.
        shows_progress: Whether a bar may be shown while batches are read past.

    Attributes:
        used: Batches of the present group that have been trained on; the loop counts them here.
    """

    def __init__(
        self, loader: Any, *, seed: int, check: Callable[[], None] | None = None, shows_progress: bool = False
    ) -> None:
        self.given = loader
        self.loader: Any = number_batches(loader, seed)
        self.seed = seed
        self.check = check
        self.shows_progress = shows_progress
        self.used: int = 0
        self._carrier = carrier_of(self.loader)
        self._taken: list[Any] = []
        self._waiting: deque[Any] = deque()
        self._go_through(iter(()))
        self._began: dict[str, Any] = {}
        self._own_stream: torch.Tensor | None = None
        self._is_between = True
        self._placed_at: Any = None
        self._is_exhausted = False

    # Handing out

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = self._waiting.popleft() if self._waiting else self._next_of_loader()
        self._taken.append(batch)
        return batch

    def _next_of_loader(self) -> Any:
        try:
            if self._own_stream is None:
                batch = self._draw()
                self._placed_at = None
            else:
                with self._in_own_stream():
                    batch = self._draw()
        except StopIteration:
            self._is_exhausted = True
            raise
        return batch

    def _go_through(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._draw = drawer(batches)

    def begin_group(self) -> None:
        """Forget the batches handed out so far: they have been used, or never will be."""
        self._taken.clear()
        self.used = 0

    # Beginning and continuing

    def begin(self, epoch: int, used: int = 0, state: Mapping[str, Any] | None = None) -> None:
        """Begin epoch `epoch`, or go on in it.

        Where the epoch is gone on in, random states are afterwards whatever that took: restore them.

        Arguments:
            epoch: Counted from 0.
            used: Batches of it that have been used.
            state: What `state` returned then; None where nothing was saved.

        Raises:
            DataError: the epoch has fewer batches.
        """
        self.end()
        begin_epoch(self.given, epoch)
        if (numbered := source_of(self.loader)) is not None:
            numbered.begin(epoch)
        state = state or {}
        if "began" in state:
            self._began = dict(state["began"])
            restore_randomness(self._began["randomness"], accelerators=False)
            self.restore_generators(self._began["generators"])
        else:
            self._began = {"randomness": capture_randomness(accelerators=False), "generators": self._generators()}
        self._own_stream = None
        if self._draws_beside_training():
            # The training draws from the same stream, dropout say, and reading past batches would draw without it.
            self._own_stream = torch.Generator().manual_seed(batch_seed(self.seed, epoch, -1)).get_state()
        self._waiting = deque(state.get("pending", ()))
        self._is_between = False
        if state.get("is_exhausted"):
            self._is_exhausted = True
            self.restore_generators(state["generators"])
            return
        with self._as_if_workers_had_lived(epoch):
            self._go_through(self._iterator(used + len(self._waiting), state.get("carried")))
        if self.check is not None:
            poll_while_waiting(self._batches, self.check)

    def end(self) -> None:
        """End the epoch: let go of the iterator, with workers that aren't to be kept."""
        # Not left to the garbage collector: that ends a loader's queues first, and its workers wait in vain then.
        self._go_through(iter(()))
        self._waiting.clear()
        self._is_between = True
        self._placed_at = None
        self._is_exhausted = False
        self.begin_group()

    def close(self, *, at_once: bool = False) -> None:
        """Let go of everything, workers that were to be kept included.

        Arguments:
            at_once: Don't wait for what workers are loading.
        """
        if at_once:
            end_workers(self._batches)
        self.end()
        self.loader = self._carrier = None

    def _iterator(self, position: int, carried: Any) -> Iterator[Any]:
        if position and carried is not None and self._carrier is not None:
            return self._iterator_at(carried)
        if not is_read_past(self.loader):
            return iterate_from(self.loader, position)
        batches: Iterator[Any] = iter(self.loader)
        if not position:
            return batches
        logger.warning(
            "reading past the %d batches that were trained on already: %s", position, why_read_past(self.loader)
        )
        with self._in_own_stream():
            if not self.shows_progress:
                return read_past(batches, position, lambda done, total: self._look_up())
            from tqdm.auto import tqdm  # noqa: PLC0415 -- 0.1 s, for those alone who see a bar

            with tqdm(total=position, desc="Reading past", unit="batch", leave=False) as bar:
                return read_past(batches, position, lambda done, total: self._advance(bar, done))

    def _iterator_at(self, carried: Any) -> Iterator[Any]:
        try:
            self._carrier.load_state_dict(carried)
            batches: Iterator[Any] = iter(self.loader)
        except Exception as error:  # torchdata's are AssertionErrors: another number of workers, say
            raise CheckpointError(
                "the training data can't be put to where the checkpoint says, as they are other data or have another "
                f"number of workers ({describe(error)}); ignore_data_skip=True begins the epoch anew"
            ) from error
        self._placed_at = carried  # until the first batch from there, not everything that has a state says so
        return batches

    @contextmanager
    def _as_if_workers_had_lived(self, epoch: int) -> Iterator[None]:
        """Let workers that persist be started in a later epoch as if they were there since the first.

        Starting workers draws from torch's global stream, and an epoch for which they live on draws nothing.
        """
        loader = self.loader
        begins_anew = getattr(loader, "persistent_workers", False) and getattr(loader, "_iterator", None) is None
        if not begins_anew or epoch == 0 or loader.generator is not None:
            yield
            return
        loader.generator = torch.Generator()
        try:
            yield
        finally:
            loader.generator = None

    def _advance(self, bar: Any, done: int) -> None:
        bar.update(done - bar.n)
        self._look_up()

    def _look_up(self) -> None:
        if self.check is not None:
            self.check()

    def _draws_beside_training(self) -> bool:
        has_workers = isinstance(self.loader, DataLoader) and self.loader.num_workers > 0
        return is_read_past(self.loader) and not has_workers

    @contextmanager
    def _in_own_stream(self) -> Iterator[None]:
        if self._own_stream is None:
            yield
            return
        trainings = torch.get_rng_state()
        torch.set_rng_state(self._own_stream)
        try:
            yield
        finally:
            self._own_stream = torch.get_rng_state()
            torch.set_rng_state(trainings)

    # Where it is

    @staticmethod
    def could_begin_with(state: Mapping[str, Any]) -> bool:
        """Return whether `state`, which comes from a file, has the form of what `state` returns."""
        began = state.get("began", {"randomness": {}, "generators": []})
        return (
            isinstance(began, Mapping)
            and isinstance(began.get("randomness"), Mapping)
            and isinstance(state.get("pending", []), list)
            and all(_are_states(part.get("generators")) for part in (state, began))
        )

    def state(self) -> dict[str, Any] | None:
        """Return where the feed is, in plain values; None where the number of used batches says it all."""
        pending = self._pending()
        if not pending and self._is_placed_by_number():
            return None
        state: dict[str, Any] = {"generators": self._generators()}
        if not self._is_between:
            state["began"] = self._began
        if pending is not None and not self._is_between:
            # A loader at its end may say that it is at the beginning, of the next epoch: nobody is to ask it.
            state |= {"pending": pending, "carried": self._carried(), "is_exhausted": self._is_exhausted}
        return state

    def can_save_pending(self) -> bool:
        """Return whether the batches that are handed out and not used could be saved."""
        return self._pending() is not None

    def restore_generators(self, states: list[torch.Tensor]) -> None:
        """Put the loader's own generators to `states`."""
        for generator, state in zip(generators_of(self.given), states, strict=False):
            generator.set_state(state)

    def _generators(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in generators_of(self.given)]

    def _pending(self) -> list[Any] | None:
        try:
            return [as_plain(batch) for batch in (*self._taken[self.used :], *self._waiting)]
        except TypeError as error:
            logger.debug("batches on hand can't be saved: %s", error)
            return None

    def _carried(self) -> Any:
        if self._carrier is None or self._placed_at is not None or self._is_exhausted:
            return self._placed_at
        try:
            return copy.deepcopy(as_plain(self._carrier.state_dict()))
        except TypeError as error:
            logger.warning("the data's own state is not saved, so a resume reads past it: %s", error)
            return None

    def _is_placed_by_number(self) -> bool:
        loader = self.given
        return (
            type(loader) is SeededLoader
            and not isinstance(loader.dataset, IterableDataset)
            and isinstance(getattr(loader.batch_sampler, "sampler", None), EpochSampler)
        )


def _are_states(generators: Any) -> bool:
    return isinstance(generators, list) and all(isinstance(state, torch.Tensor) for state in generators)
