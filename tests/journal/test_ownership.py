from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import JournalBusy
from loopwright.journal import ownership
from loopwright.journal.ownership import Ownership
from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from tests.journal.programs import next_line, output_of, steps_in, tell

MakeRecorder = Callable[..., Recorder]
Start = Callable[..., Any]


def statuses_in(directory: Path) -> list[Status]:
    with JournalReader(directory) as reader:
        return [attempt.status for attempt in reader.attempts()]


# Two processes

TRY_TO_WRITE = """
import sys
from loopwright.errors import JournalBusy
from loopwright.journal.recorder import Recorder
from loopwright.records import Run

recorder = Recorder(sys.argv[1])
try:
    recorder.begin_attempt(Run(id="b" * 32, output_dir="out"), purpose="training")
except JournalBusy as error:
    print(error)
recorder.close()
"""


def test_a_second_process_is_told_who_writes_and_the_first_goes_on_unharmed(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder, start: Start
) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    recorder.record(Kind.LOG, 1, {"loss": 1.0})
    for _ in range(2):
        words = output_of(start(TRY_TO_WRITE, tmp_path))
        assert words.startswith(f"{tmp_path}: process {os.getpid()} on ")
        assert words.endswith(" is writing it\n")
    recorder.record(Kind.LOG, 2, {"loss": 1.0})
    recorder.end_attempt(Status.COMPLETED)
    assert steps_in(tmp_path) == [1, 2]
    assert statuses_in(tmp_path) == [Status.COMPLETED]
    recorder.close()
    assert output_of(start(TRY_TO_WRITE, tmp_path)) == ""
    assert statuses_in(tmp_path) == [Status.COMPLETED, Status.INTERRUPTED]


def test_the_lock_is_gone_with_a_killed_owner_though_its_child_lives_on(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder, start: Start
) -> None:
    owning = """
        import os, sys, time
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Kind, Run

        recorder = Recorder(sys.argv[1])
        recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        recorder.record(Kind.LOG, 1, {"loss": 1.0})
        child = os.fork()
        if child:
            print(child, flush=True)
        time.sleep(60)
        """
    process = start(owning, tmp_path)
    child = int(next_line(process))
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it is there
        recorder = make_recorder()
        recorder.begin_attempt(run, purpose="training")
        recorder.record(Kind.LOG, 2, {"loss": 1.0})
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    assert steps_in(tmp_path) == [1, 2]
    assert statuses_in(tmp_path) == [Status.KILLED, Status.RUNNING]


# Two recorders of one process


def test_an_active_one_refuses_another_and_goes_on(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder
) -> None:
    active, other = make_recorder(), make_recorder()
    active.begin_attempt(run, purpose="training")
    with pytest.raises(JournalBusy, match="another training of this process writes its journal: give each its own"):
        other.begin_attempt(run, purpose="training")
    active.record(Kind.LOG, 1, {"loss": 1.0})
    assert steps_in(tmp_path) == [1]
    assert statuses_in(tmp_path) == [Status.RUNNING]


def test_an_idle_one_makes_way_and_both_may_record_in_turn(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder
) -> None:
    first, second = make_recorder(), make_recorder()
    first.begin_attempt(run, purpose="training")
    first.record(Kind.LOG, 1, {"loss": 1.0})
    first.end_attempt(Status.COMPLETED)
    second.begin_attempt(run, purpose="training")
    second.record(Kind.LOG, 2, {"loss": 1.0})
    with pytest.raises(JournalBusy):
        first.record(Kind.LOG, 3, {"loss": 1.0})  # which would overwrite the second one's, were it written
    second.record(Kind.LOG, 4, {"loss": 1.0})
    second.end_attempt(Status.COMPLETED)
    first.record(Kind.LOG, 5, {"loss": 1.0})
    second.record(Kind.LOG, 6, {"loss": 1.0})
    with JournalReader(tmp_path) as reader:
        found = [(record.sequence, record.step, record.attempt) for record in reader.records()]
    assert found == [(1, 1, 1), (2, 2, 2), (3, 4, 2), (4, 5, 1), (5, 6, 2)]


def test_an_evaluation_makes_way_for_a_training_and_has_ended_well(
    tmp_path: Path, run: Run, make_recorder: MakeRecorder
) -> None:
    evaluation, training = make_recorder(), make_recorder()
    evaluation.begin_attempt(run, purpose="evaluation")
    evaluation.record(Kind.LOG, 0, {"eval_loss": 1.0})
    training.begin_attempt(run, purpose="training")
    assert statuses_in(tmp_path) == [Status.COMPLETED, Status.RUNNING]


def test_two_directories_do_not_disturb_each_other(tmp_path: Path, run: Run, make_recorder: MakeRecorder) -> None:
    for name in ("a", "b"):
        recorder = make_recorder(tmp_path / name)
        recorder.begin_attempt(run, purpose="training")
        recorder.record(Kind.LOG, 1, {"loss": 1.0})
    assert steps_in(tmp_path / "a") == steps_in(tmp_path / "b") == [1]


def test_a_directory_by_another_name_is_the_same(tmp_path: Path, run: Run, make_recorder: MakeRecorder) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    make_recorder(tmp_path / "out").begin_attempt(run, purpose="training")
    with pytest.raises(JournalBusy):
        make_recorder(tmp_path / "link").begin_attempt(run, purpose="training")
    with pytest.raises(JournalBusy, match="this process is writing it already"):
        Ownership(tmp_path / "link" / "journal.lock", "writing").acquire()


# Forks

# A thread asks the journal all the time, so a fork finds SQLite's locks taken. Each child uses what it has inherited as
# a data-loading worker could, and ends as a program does: with exit handlers, and every object destroyed.
FORK = """
import gc, os, sys, threading, time
from pathlib import Path
from loopwright.errors import JournalBusy
from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status

directory = Path(sys.argv[1])
recorder = Recorder(directory)
recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
writer = recorder._file._writer
reader = JournalReader(directory)
is_over = threading.Event()

def ask():
    while not is_over.is_set():
        reader.records()

threading.Thread(target=ask, daemon=True).start()

def is_open():
    connection = getattr(writer, "_connection", None)
    if connection is None:
        return os.fstat(writer._descriptor).st_size > 0
    return connection.total_changes > 0  # raises where it has been closed

def be_a_child():
    global writer
    assert recorder.record(Kind.LOG, 999, {"loss": 9.0}) == recorder.position
    recorder.decide(Decision(999, "callback", "on_log", "should_save", True))
    recorder.sync()
    recorder.end_attempt(Status.FAILED)
    recorder.close()
    recorder.close()
    assert is_open()
    try:
        recorder.begin_attempt(Run(id="b" * 32, output_dir="out"), purpose="training")
    except JournalBusy as error:
        assert f"process {os.getppid()}" in str(error)
    else:
        raise AssertionError("the parent holds it")
    writer = None
    gc.collect()
    sys.exit(0)

def wait_for(child):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hung"

for step in range(1, 21):
    recorder.record(Kind.LOG, step, {"loss": 1.0})
    child = os.fork()
    if child == 0:
        be_a_child()
    recorder.record(Kind.LOG, step, {"eval_loss": 1.0})
    print(wait_for(child), flush=True)
is_over.set()
recorder.end_attempt(Status.COMPLETED)
recorder.close()
"""


def test_a_forked_child_neither_writes_nor_closes_and_the_parent_goes_on(
    tmp_path: Path, journal_kind: str, start: Start
) -> None:
    process = start(FORK, tmp_path)
    printed, errors = process.communicate(timeout=120)
    assert (printed.split(), errors) == (["0"] * 20, "")
    assert steps_in(tmp_path) == [step for step in range(1, 21) for _ in range(2)]
    assert statuses_in(tmp_path) == [Status.COMPLETED]


def test_a_child_can_write_once_the_parent_is_gone(tmp_path: Path, run: Run, start: Start) -> None:
    inheriting = """
        import os, sys, time
        from loopwright.errors import JournalBusy
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Kind, Run, Status

        recorder = Recorder(sys.argv[1])
        recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        recorder.record(Kind.LOG, 1, {"loss": 1.0})
        if os.fork():
            os._exit(0)
        for _ in range(1000):
            try:
                recorder.begin_attempt(Run(id="b" * 32, output_dir="out"), purpose="training")
                break
            except JournalBusy:
                time.sleep(0.01)
        recorder.record(Kind.LOG, 2, {"loss": 1.0})
        recorder.end_attempt(Status.COMPLETED)
        """
    assert output_of(start(inheriting, tmp_path)) == ""
    assert steps_in(tmp_path) == [1, 2]
    assert statuses_in(tmp_path) == [Status.KILLED, Status.COMPLETED]


def test_a_connection_is_closed_only_where_it_was_opened(tmp_path: Path, start: Start) -> None:
    closing = """
        import os, sqlite3, sys
        from loopwright.journal.ownership import Connection

        connection = sqlite3.connect(sys.argv[1], factory=Connection)
        connection.execute("CREATE TABLE words (word)")
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        connection.close()
        try:
            print("open", connection.total_changes, flush=True)
        except sqlite3.ProgrammingError:
            print("closed", flush=True)
        """
    assert output_of(start(closing, tmp_path / "some.db")).split() == ["open", "0", "closed"]


# The lock


def test_the_lock_is_taken_once_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    holder, other = Ownership(path, "counting"), Ownership(path, "counting")
    holder.acquire()
    assert holder.is_held
    with pytest.raises(JournalBusy, match="this process is counting it already"):
        other.acquire()
    other.release()
    assert holder.is_held
    holder.release()
    holder.release()
    assert not holder.is_held
    other.acquire()
    assert other.is_held
    other.release()


def test_an_owner_that_wrote_nothing_about_itself_still_owns(tmp_path: Path, start: Start) -> None:
    holding = """
        import os, sys
        from pathlib import Path
        from loopwright.journal.ownership import Ownership

        held = Ownership(Path(sys.argv[1]), "counting")
        held.acquire()
        os.ftruncate(held._descriptor, 0)  # as on a disk that was full
        print("held", flush=True)
        input()
        held.release()
        print("released", flush=True)
        input()
        """
    process = start(holding, tmp_path / "some.lock")
    assert next_line(process) == "held"
    waiting = Ownership(tmp_path / "some.lock", "counting")
    with pytest.raises(JournalBusy, match=f"{tmp_path.name}: another process is counting it"):
        waiting.acquire()
    tell(process)
    assert next_line(process) == "released"
    waiting.acquire()
    assert waiting.is_held
    waiting.release()


def test_a_filesystem_without_locks_is_said_and_does_not_stop_the_training(
    tmp_path: Path, run: Run, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ownership, "_lock", refuse)
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    recorder.record(Kind.LOG, 1, {"loss": 1.0})
    assert recorder.unwritten == 0
    assert steps_in(tmp_path) == [1]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "keeps no locks ([Errno 37] No locks available)" in warning
