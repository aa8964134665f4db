"""Deliver one run to one tracker, on a thread of its own.

    open ──▶ read a batch ──▶ hand it over ──▶ ask what is confirmed ──▶ move the cursor ──▶ (again)
      ▲            │ nothing left, and the run has ended ──▶ close ──▶ done
      └── wait ◀── anything raised, SystemExit included

The cursor moves only to what the tracker has confirmed, so a kill at any moment repeats some records and skips none.
Nothing is held in memory but the batch: however long a service is away, the journal is the queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loopwright._support.log import Logger, get_logger
from loopwright.delivery.importing import importing
from loopwright.delivery.retry import Backoff
from loopwright.delivery.sink import Sink, Standing
from loopwright.delivery.store import DeliveryStore
from loopwright.errors import JournalBusy, RecordRefused, describe
from loopwright.journal.ownership import Ownership
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Record, Run, Status

logger: Logger = get_logger(__name__)

BATCH_SIZE = 500
POLL_SECONDS = 0.5
# A session that fails so often in a row is opened anew.
_FAILURES_PER_SESSION = 3
# While the run is being ended nobody wants to wait a minute for a service that answers "no" at once.
_LAST_TRIES = 3


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long calls into an SDK may take, in seconds."""

    open: float = 120.0
    call: float = 60.0
    close: float = 60.0


class Worker:
    """Delivers one run to one tracker.

    Arguments:
        run: The run.
        tracker: The tracker's name.
        make_sink: Returns the tracker, not yet opened.
        reader: Reads the journal.
        store: Keeps the cursor.
        status: Returns how the run stands: `RUNNING` as long as records may follow.
        deadlines: For calls into the SDK.
        waits_for_others: Whether, asked to finish, it waits for a process that delivers to the tracker already, rather
            than give up.

    Attributes:
        is_done: Whether it has ended: all delivered, or given up.
        has_opened: Set when the tracker is open, or has failed to.
        error: What stands in the way, or None.
        seconds: Time spent in the SDK.
        gave_up_at: Number of the newest record when it gave up.
    """

    def __init__(  # noqa: PLR0913 -- what it is about, and what it works with
        self,
        run: Run,
        tracker: str,
        make_sink: Callable[[], Sink],
        *,
        reader: JournalReader,
        store: DeliveryStore,
        status: Callable[[], Status],
        deadlines: Deadlines | None = None,
        waits_for_others: bool = False,
    ) -> None:
        self.run = run
        self.tracker = tracker
        self.is_done: bool = False
        self.has_opened = threading.Event()
        self.error: str | None = None
        self.seconds: float = 0.0
        self.gave_up_at: int = 0
        self._make_sink = make_sink
        self._reader = reader
        self._store = store
        self._status = status
        self._deadlines = deadlines or Deadlines()
        self._waits_for_others = waits_for_others
        self._ownership = Ownership(store.path.with_name(f".delivery.{tracker}.lock"), "delivering")
        self._sink: Sink | None = None
        self._cursor = store.read(run.id, tracker).cursor
        self._sent = self._cursor
        self._rewound = 0
        self._refused: set[int] = set()
        self._backoff = Backoff()
        self._failures_in_session = 0
        self._last_tries: int | None = None
        self._call: tuple[str, float] | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"deliver-{tracker}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Deliver what is left, close, and be done; give up soon where the service doesn't take it."""
        if self._last_tries is None:
            self._last_tries = _LAST_TRIES
        self._wake.set()

    def stop(self) -> None:
        """Begin nothing more, and let others deliver; a call under way is not waited for."""
        self._stopping = True
        self._wake.set()
        self._ownership.release()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it is done; return whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def pending(self) -> int:
        """Return how many records are not confirmed yet."""
        return self._reader.count(self.run.id, after=self._cursor, tracker=self.tracker)

    def overdue(self) -> str | None:
        """Return the call that has missed its deadline, or None."""
        call = self._call
        return call[0] if call is not None and time.monotonic() > call[1] else None

    # The thread

    def _work(self) -> None:
        while not (self.is_done or self._stopping):
            try:
                is_idle = self._turn()
            except BaseException as error:  # an SDK may raise anything, and calls sys.exit
                self._fail(error)
                continue
            if is_idle and not self.is_done:
                self._rest()
        self._ownership.release()
        self.has_opened.set()

    def _rest(self) -> None:
        self._wake.wait(POLL_SECONDS)
        if self._last_tries is None or self._sink is None:  # or it would ask for the lock without a pause
            self._wake.clear()

    def _turn(self) -> bool:
        """Do the next thing; return whether there was nothing to do."""
        if self._sink is None:
            self._open()
        sink = self._sink
        if sink is None:
            return True
        status = self._status()  # before the records: what comes after an end comes with another one
        records = self._reader.records(self.run.id, after=self._sent, tracker=self.tracker, limit=BATCH_SIZE)
        if records:
            self._hand_over(sink, records)
        self._confirm(sink)
        self._succeed()
        if records:
            return False
        if self._last_tries is not None or status is not Status.RUNNING:
            self._close(sink, status if status is not Status.RUNNING else Status.INTERRUPTED)
        return True

    def _open(self) -> None:
        if not self._ownership.is_held:
            try:
                self._ownership.acquire()
            except JournalBusy as error:
                self.error = str(error)
                if self._last_tries is not None and not self._waits_for_others:
                    raise
                return
        with importing.take():
            sink = self._make_sink()
            with self._calling("import", self._deadlines.open):
                sink.load()
        delivered = self._store.read(self.run.id, self.tracker)
        self._cursor = self._sent = delivered.cursor
        self._rewound = int(delivered.reference.get("rewound", 0))
        upcoming = self._reader.records(self.run.id, after=self._cursor, tracker=self.tracker, limit=1)
        if upcoming and sink.purges and not delivered.was_closed:
            self._go_back_to(upcoming[0].step)
        standing = Standing(
            confirmed=self._cursor,
            next_step=upcoming[0].step if upcoming else None,
            was_closed=delivered.was_closed,
            reference=delivered.reference,
            remember=lambda values: self._store.remember(self.run.id, self.tracker, values),
        )
        self._store.note_session(self.run.id, self.tracker, is_open=True)
        with self._calling("open", self._deadlines.open):
            step = sink.open(self.run, standing)
        self.error = self.error or delivered.error  # of an earlier session: now it goes
        if step is not None:
            self._go_back_to(step)
        self._sink = sink
        self._failures_in_session = 0
        self.has_opened.set()

    def _go_back_to(self, step: int) -> None:
        """Let the records of `step` and later come again, also if a kill comes before they have."""
        first = self._reader.records(self.run.id, tracker=self.tracker, from_step=step, limit=1)
        if first and first[0].sequence <= self._sent:
            self._sent = first[0].sequence - 1
        if self._sent < self._cursor:
            self._cursor = self._sent
            self._store.move(self.run.id, self.tracker, self._cursor)

    def _hand_over(self, sink: Sink, records: list[Record]) -> None:
        batch = [record for record in records if record.sequence not in self._refused]
        cut = next((place for place, record in enumerate(batch) if self._is_new_rewind(record)), None)
        if cut == 0:
            self._rewind(sink, batch[0])
            return
        batch = batch[:cut]
        if batch:
            try:
                with self._calling("deliver", max(sink.deadline_seconds(batch), self._deadlines.call)):
                    sink.deliver(batch)
            except RecordRefused as error:
                self._refuse(error)
                return
        self._sent = batch[-1].sequence if cut is not None else records[-1].sequence

    def _is_new_rewind(self, record: Record) -> bool:
        return record.kind is Kind.REWIND and record.sequence > self._rewound

    def _rewind(self, sink: Sink, record: Record) -> None:
        step = int(record.values["from_step"])
        if sink.purges:
            self._go_back_to(step)  # before: what it takes back has to come again, also after a kill
        with self._calling("rewind", self._deadlines.call):
            sink.rewind(step)
        if not sink.purges:
            self._sent = record.sequence  # after: where it raises, it is told again
        self._rewound = record.sequence
        self._store.remember(self.run.id, self.tracker, {"rewound": record.sequence})

    def _refuse(self, error: RecordRefused) -> None:
        if error.sequence not in self._refused:
            self._refused.add(error.sequence)
            self._store.note_refusal(self.run.id, self.tracker)
            logger.warning("%s will not take record %d, left out: %s", self.tracker, error.sequence, error.reason)

    def _confirm(self, sink: Sink) -> None:
        with self._calling("confirmed", self._deadlines.call):
            confirmed = min(sink.confirmed(), self._sent)
        if confirmed > self._cursor:
            self._cursor = confirmed
            self._store.move(self.run.id, self.tracker, confirmed)

    def _close(self, sink: Sink, status: Status) -> None:
        with self._calling("close", self._deadlines.close):
            sink.close(status)
        self._cursor = max(self._cursor, self._sent)
        self._store.move(self.run.id, self.tracker, self._cursor)
        self._store.note_session(self.run.id, self.tracker, is_open=False)
        self.is_done = True

    def _succeed(self) -> None:
        if self._backoff.failures or self.error is not None:
            self._store.note_success(self.run.id, self.tracker)
            if self._backoff.failures:
                logger.warning("%s takes records again", self.tracker)
        self._backoff.succeed()
        self._failures_in_session = 0
        self.error = None

    def _fail(self, error: BaseException) -> None:
        words = describe(error)
        if self._backoff.failures == 0:
            logger.warning("%s can't be reached or raises, and is tried again: %s", self.tracker, words)
            logger.debug("%s raised", self.tracker, exc_info=error)
        self.error = words
        self._note(words)
        self._failures_in_session += 1
        wait = self._backoff.fail()
        sink = self._sink
        if sink is not None and (sink.purges or self._failures_in_session >= _FAILURES_PER_SESSION):
            self._sink = None
            self._abandon(sink)
        self.has_opened.set()
        if self._last_tries is not None:
            self._last_tries -= 1
            if self._last_tries <= 0:
                self.gave_up_at = self._reader.last_sequence(self.run.id)
                self.is_done = True
                return
            wait = min(wait, 1.0)
        self._wake.clear()
        self._wake.wait(wait)

    def _abandon(self, sink: Sink) -> None:
        try:
            with self._calling("abandon", self._deadlines.call):
                sink.abandon()
        except BaseException as error:  # it failed before, and nobody waits for it
            logger.debug("%s raised while it was let go of", self.tracker, exc_info=error)

    def _note(self, words: str) -> None:
        try:
            self._store.note_failure(self.run.id, self.tracker, words)
        except Exception as error:  # the disk is full, say: then only this process knows
            logger.debug("the failure of %s could not be noted: %s", self.tracker, error)

    @contextmanager
    def _calling(self, name: str, seconds: float) -> Iterator[None]:
        began = time.monotonic()
        self._call = (name, began + seconds)
        try:
            yield
        finally:
            self._call = None
            self.seconds += time.monotonic() - began
