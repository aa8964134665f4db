"""What a worker does between a tracker that fails and a journal that goes on."""

from __future__ import annotations

import importlib
import sys
import threading
import time

import pytest

from loopwright.delivery.store import DeliveryStore, read_delivered
from loopwright.delivery.worker import Deadlines, Worker
from loopwright.errors import JournalBusy, RecordRefused
from loopwright.journal.ownership import Ownership
from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status


class Sink:
    """Keeps what it is given; each call named in `failures` raises so often."""

    def __init__(self, book, failures, *, purges=False):
        self.book = book
        self.failures = failures
        self.purges = purges
        self.written = 0

    def _do(self, name, *details):
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            raise ConnectionError(name)
        self.book.append((name, *details))

    def load(self):
        pass

    def open(self, run, standing):
        self._do("open", standing.next_step)

    def deliver(self, records):
        self._do("deliver", *[record.step for record in records])
        self.written = records[-1].sequence

    def rewind(self, step):
        self._do("rewind", step)

    def confirmed(self):
        return self.written

    def close(self, status):
        self._do("close", status.value)

    def abandon(self):
        pass

    def deadline_seconds(self, records):
        return 10.0


@pytest.fixture
def journal(tmp_path):
    """Steps 1 to 6, of which a resume from step 3 contradicted those from 4 on."""
    recorder = Recorder(tmp_path)
    run = Run(id="a" * 32, output_dir=str(tmp_path))
    recorder.begin_attempt(run, purpose="training")
    for step in range(1, 7):
        recorder.record(Kind.LOG, step, {"loss": float(step)})
        if step == 3:
            whereabouts = recorder.whereabouts()
    recorder.end_attempt(Status.FAILED)
    recorder.begin_attempt(run, purpose="training", first_step=3, resumed_at=whereabouts)
    for step in range(4, 7):
        recorder.record(Kind.LOG, step, {"loss": -float(step)})
    recorder.end_attempt(Status.COMPLETED)
    yield run
    recorder.close()


def deliver(tmp_path, run, make_sink):
    worker = Worker(
        run, "kept", make_sink, reader=JournalReader(tmp_path), store=DeliveryStore(tmp_path),
        status=lambda: Status.COMPLETED,
    )  # fmt: skip
    worker.start()
    assert worker.join(20), worker.error
    return worker


@pytest.mark.parametrize("purges", [False, True])
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_rewind_that_fails_is_told_again_before_anything_that_follows(tmp_path, journal, purges, failures):
    book, left = [], {"rewind": failures}
    worker = deliver(tmp_path, journal, lambda: Sink(book, left, purges=purges))
    assert worker.pending() == 0
    names = [entry[0] for entry in book]
    assert ("rewind", 4) in book
    after = [step for entry in book[names.index("rewind") :] if entry[0] == "deliver" for step in entry[1:]]
    assert after[-3:] == [4, 5, 6], "the new values come after it"
    assert read_delivered(tmp_path, journal.id, "kept").reference["rewound"] > 0


@pytest.mark.parametrize("name", ["open", "deliver", "close"])
def test_call_that_fails_is_repeated_and_the_cursor_skips_nothing(tmp_path, journal, name):
    book, left = [], {name: 2}
    worker = deliver(tmp_path, journal, lambda: Sink(book, left))
    assert left[name] == 0
    assert worker.error is None
    assert book[-1] == ("close", "completed")
    assert {step for entry in book if entry[0] == "deliver" for step in entry[1:]} >= set(range(1, 7))
    assert read_delivered(tmp_path, journal.id, "kept").error is None


def test_record_that_is_refused_is_left_out_and_counted(tmp_path, journal):
    book = []

    class Picky(Sink):
        def deliver(self, records):
            for record in records:
                if record.step == 2:
                    raise RecordRefused(record.sequence, "no twos")
            super().deliver(records)

    worker = deliver(tmp_path, journal, lambda: Picky(book, {}))
    assert worker.pending() == 0
    assert 2 not in {step for entry in book if entry[0] == "deliver" for step in entry[1:]}
    assert read_delivered(tmp_path, journal.id, "kept").refused == 1


@pytest.fixture
def tangled_package(tmp_path, monkeypatch):
    """A package and a module of it that need each other: whole for one thread, but not for two that meet half-way."""
    package = tmp_path / "packages" / "tangled"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("import time\ntime.sleep(0.5)\nfrom tangled.core import answer\n")
    package.joinpath("core.py").write_text("import tangled\nanswer = 42\n")
    monkeypatch.syspath_prepend(str(package.parent))
    yield "tangled", "tangled.core"
    for module in [module for module in sys.modules if module.startswith("tangled")]:
        del sys.modules[module]


def test_trackers_that_are_opened_at_once_import_one_after_the_other(tmp_path, journal, tangled_package):
    errors, has_begun, loaded, loaded_at_opening = [], threading.Event(), [], []

    class Importing(Sink):
        def __init__(self, module):
            super().__init__([], {})
            self.module = module

        def load(self):
            has_begun.set()
            try:
                importlib.import_module(self.module)
                time.sleep(0.2)
                loaded.append(self.module)
            except ImportError as error:
                errors.append(error)

        def open(self, run, standing):
            loaded_at_opening.append(set(loaded))

    workers = [
        Worker(
            journal, module, lambda module=module: Importing(module),
            reader=JournalReader(tmp_path), store=DeliveryStore(tmp_path), status=lambda: Status.COMPLETED,
        )
        for module in tangled_package
    ]  # fmt: skip
    for worker in workers:
        worker.start()
        assert has_begun.wait(20)
    assert all(worker.join(20) for worker in workers)
    assert errors == []
    assert loaded_at_opening == [set(tangled_package)] * 2, "an SDK imports more while it is opened"


def test_import_that_hangs_keeps_the_other_trackers_for_a_while_only(tmp_path, journal, monkeypatch):
    monkeypatch.setattr("loopwright.delivery.importing.PATIENCE_SECONDS", 0.2)
    let_go, hangs = threading.Event(), threading.Event()

    class Hanging(Sink):
        def load(self):
            hangs.set()
            let_go.wait(20)

    stuck = Worker(
        journal, "stuck", lambda: Hanging([], {}), reader=JournalReader(tmp_path), store=DeliveryStore(tmp_path),
        status=lambda: Status.COMPLETED, deadlines=Deadlines(open=0.0),
    )  # fmt: skip
    stuck.start()
    try:
        assert hangs.wait(20)
        assert deliver(tmp_path, journal, lambda: Sink([], {})).pending() == 0
        assert stuck.overdue() == "import"
    finally:
        let_go.set()
    assert stuck.join(20)


@pytest.mark.parametrize("waits", [True, False])
def test_worker_that_is_to_finish_beside_a_training_waits_for_who_delivers_already(
    tmp_path, journal, monkeypatch, waits
):
    acquire, busy = Ownership.acquire, []

    def acquire_later(ownership):
        busy.append(ownership)
        if len(busy) <= 12:
            raise JournalBusy("process 7 is delivering it")
        acquire(ownership)

    monkeypatch.setattr(Ownership, "acquire", acquire_later)
    worker = Worker(
        journal, "kept", lambda: Sink([], {}), reader=JournalReader(tmp_path), store=DeliveryStore(tmp_path),
        status=lambda: Status.COMPLETED, waits_for_others=waits,
    )  # fmt: skip
    worker.finish()
    worker.start()
    assert worker.join(20), worker.error
    assert (worker.pending() == 0) is waits
    assert worker.error == (None if waits else "JournalBusy: process 7 is delivering it")
