from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import JournalError, JournalNotFound
from loopwright.journal.reader import JournalReader, SinkEntry, find_journal
from loopwright.journal.recorder import Recorder
from loopwright.journal.writer import SqliteWriter
from loopwright.records import Kind, Run, Status
from tests.journal.programs import entry, next_line, output_of, tell

MakeRecorder = Callable[..., Recorder]
Start = Callable[..., Any]


def numbers_in(directory: Path) -> list[int]:
    with JournalReader(directory) as reader:
        return [record.sequence for record in reader.records()]


def ask_everything(reader: JournalReader, run: Run) -> None:
    reader.check()
    reader.change_counter()
    assert reader.run(run.id) is not None
    assert reader.attempts(run.id)
    assert reader.sinks(run.id) == []
    assert reader.records(run.id, limit=1)
    assert reader.awaited(run.id, after=0, kinds=[Kind.LOG])
    assert reader.count(run.id)
    assert reader.last_sequence(run.id)


@pytest.fixture
def recorder(make_recorder: MakeRecorder, run: Run) -> Recorder:
    made = make_recorder()
    made.begin_attempt(run, purpose="training", versions={"torch": "2.13.0"})
    return made


# Questions


def test_records_are_chosen_by_run_number_kind_tracker_and_step(
    tmp_path: Path, journal_kind: str, recorder: Recorder, run: Run
) -> None:
    for step in range(1, 7):
        recorder.record(Kind.LOG, step, {"loss": float(step)})
    recorder.record(Kind.PREDICTION, 6, {"test_loss": 1.0})
    recorder.record(Kind.LOG, 6, {"own": 1.0}, tracker="wandb")
    recorder.end_attempt(Status.COMPLETED)
    other = Run(id="b" * 32, output_dir="out", created_at=2.0, parent_id=run.id, parent_step=3)
    recorder.begin_attempt(other, purpose="training", first_step=3)
    recorder.record(Kind.LOG, 4, {"loss": 0.0})
    with JournalReader(tmp_path) as reader:

        def steps(*arguments: Any, **conditions: Any) -> list[int]:
            return [record.step for record in reader.records(*arguments, **conditions)]

        assert steps(run.id) == [1, 2, 3, 4, 5, 6, 6]
        assert steps(run.id, tracker="wandb") == [1, 2, 3, 4, 5, 6, 6, 6]
        assert steps(run.id, tracker="mlflow") == [1, 2, 3, 4, 5, 6, 6]
        assert steps(run.id, kinds=[Kind.PREDICTION]) == [6]
        assert steps(run.id, kinds=[]) == []
        assert steps(run.id, after=4, limit=2) == [5, 6]
        assert steps(run.id, from_step=5, kinds=[Kind.LOG]) == [5, 6]
        assert steps(other.id) == [4]
        assert steps() == [1, 2, 3, 4, 5, 6, 6, 4]
        assert steps("c" * 32) == []
        assert (reader.count(run.id), reader.count(run.id, after=6, tracker="wandb")) == (7, 2)
        assert (reader.last_sequence(run.id), reader.last_sequence(), reader.last_sequence("c" * 32)) == (8, 9, 0)
        assert [found.id for found in reader.runs()] == [run.id, other.id]
        branch = reader.run(other.id)
        assert branch is not None
        assert (branch.parent_id, branch.parent_step, branch.output_dir) == (run.id, 3, str(tmp_path))
        assert reader.run("c" * 32) is None
        assert [attempt.first_step for attempt in reader.attempts()] == [0, 3]
        assert reader.attempts(run.id)[0].versions == {"torch": "2.13.0"}


def test_the_change_counter_tells_whether_anything_was_written(
    tmp_path: Path, journal_kind: str, recorder: Recorder
) -> None:
    with JournalReader(tmp_path) as reader:
        before = reader.change_counter()
        assert reader.change_counter() == before
        recorder.record(Kind.LOG, 1, {"loss": 1.0})
        assert reader.change_counter() != before


def test_threads_may_share_a_reader(tmp_path: Path, journal_kind: str, recorder: Recorder, run: Run) -> None:
    for step in range(1, 101):
        recorder.record(Kind.LOG, step, {"loss": float(step)})
    found: list[int] = []
    with JournalReader(tmp_path) as reader:
        threads = [
            threading.Thread(target=lambda: found.extend(len(reader.records(run.id)) for _ in range(20)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [100] * 80


# Beside a writer


def test_everything_written_meanwhile_is_read_once_and_in_order(
    tmp_path: Path, journal_kind: str, start: Start
) -> None:
    writing = """
        import sys
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Kind, Run, Status

        recorder = Recorder(sys.argv[1])
        recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        print("begun", flush=True)
        for step in range(1, 2001):
            recorder.record(Kind.LOG, step, {"loss": 1 / step})
            if step % 500 == 0:
                recorder.sync()
                sys.stdin.readline()  # the reader has come so far
        recorder.end_attempt(Status.COMPLETED)
        """
    process = start(writing, tmp_path)
    assert next_line(process) == "begun"
    found, told = [], 0
    with JournalReader(tmp_path) as reader:
        while reader.attempts()[0].status is Status.RUNNING:
            records = reader.records("a" * 32, after=len(found))
            found += records
            if len(found) >= told + 500:
                told += 500
                tell(process)
        found += reader.records("a" * 32, after=len(found))
    assert [(record.sequence, record.step) for record in found] == [(step, step) for step in range(1, 2001)]
    assert [record.values for record in found] == [{"loss": 1 / step} for step in range(1, 2001)]
    assert output_of(process) == ""


def test_no_question_leaves_a_transaction_open(tmp_path: Path, recorder: Recorder, run: Run) -> None:
    for step in range(1, 101):
        recorder.record(Kind.LOG, step, {"loss": 1.0})
    with JournalReader(tmp_path) as reader:
        ask_everything(reader, run)
        other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, timeout=0.0)
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        other.close()
        assert (tmp_path / "journal.db-wal").stat().st_size == 0
        recorder.record(Kind.LOG, 101, {"loss": 1.0})
        assert reader.records(run.id, after=100)[0].step == 101


def test_a_reader_that_stays_lets_the_log_begin_anew(tmp_path: Path, recorder: Recorder, run: Run) -> None:
    log = tmp_path / "journal.db-wal"
    with JournalReader(tmp_path) as reader:
        sizes = []
        for step in range(1, 501):
            recorder.record(Kind.LOG, step, {"loss": 1.0})
            assert reader.last_sequence() == step
            if step % 50 == 0:
                recorder.sync()
                sizes.append(log.stat().st_size)
    assert sizes[-1] < sizes[0] * 1.5


def test_a_forked_child_reads_with_a_connection_of_its_own(
    tmp_path: Path, journal_kind: str, recorder: Recorder, start: Start
) -> None:
    recorder.record(Kind.LOG, 1, {"loss": 1.0})
    reading = """
        import os, sys, threading
        from loopwright.journal.reader import JournalReader

        reader = JournalReader(sys.argv[1])
        print(reader.last_sequence(), flush=True)
        reader._lock.acquire()  # as a thread of the parent's does that is in the middle of a question
        if os.fork() == 0:
            reader.close()
            sys.exit(0)
        assert os.wait()[1] == 0
        if os.fork() == 0:
            before = reader._view
            print(reader.last_sequence(), reader._view is before, flush=True)
            reader.close()
            sys.exit(0)
        assert os.wait()[1] == 0
        reader._lock.release()
        print(reader.last_sequence())
        """
    assert output_of(start(reading, tmp_path)).split() == ["1", "1", "False", "1"]


# What is there


def test_no_journal_is_said(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        assert find_journal(directory) is None
        with pytest.raises(JournalNotFound, match=directory.name):
            JournalReader(directory)


@pytest.mark.parametrize("name", ["journal.db", "journal.jsonl"])
def test_a_file_that_is_only_just_being_made_is_no_journal_yet(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(JournalNotFound):
        JournalReader(tmp_path)


@pytest.mark.parametrize("name", ["journal.db", "journal.jsonl"])
def test_something_else_in_its_place_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(os.urandom(5000))
    with pytest.raises(JournalError, match=name):
        JournalReader(tmp_path)


def test_a_damaged_page_is_found_by_a_check(tmp_path: Path, recorder: Recorder) -> None:
    for step in range(1, 2001):
        recorder.record(Kind.LOG, step, {"loss": 1.0})
    recorder.close()
    content = bytearray((tmp_path / "journal.db").read_bytes())
    middle = len(content) // 8192 * 4096
    content[middle : middle + 4096] = bytes(4096)
    (tmp_path / "journal.db").write_bytes(content)
    with JournalReader(tmp_path) as reader:
        assert reader.last_sequence() == 2000  # which touches no page in the middle
        with pytest.raises(JournalError, match="is damaged"):
            reader.check()
        with pytest.raises(JournalError, match="malformed"):
            reader.records()


def test_an_entry_that_is_damaged_is_an_error_of_the_journal(tmp_path: Path, recorder: Recorder, run: Run) -> None:
    recorder.add_sink(SinkEntry(run.id, "wandb", "module:name", {}, {}, "delivery", False))
    recorder.record(Kind.LOG, 1, {"loss": 1.0})
    recorder.close()
    damage = (
        "UPDATE records SET data = '{\"loss\": 1.'",
        "UPDATE attempts SET status = 'rumning'",
        "UPDATE sinks SET options = '{'",
    )
    connection = sqlite3.connect(tmp_path / "journal.db")
    for statement in damage:
        connection.execute(statement)
    connection.commit()
    connection.close()
    with JournalReader(tmp_path) as reader:
        for question in (reader.records, reader.attempts, reader.sinks):
            with pytest.raises(JournalError, match="is damaged"):
                question()
        with pytest.raises(JournalError, match="is damaged"):
            reader.awaited(run.id, after=0, kinds=[Kind.LOG])


# Where this process may not write

READ_AS_NOBODY = """
import os, sys
from loopwright.journal.reader import JournalReader

if os.getuid() == 0:
    os.setuid(65534)
directory = sys.argv[1]
assert not os.access(directory, os.W_OK)
with JournalReader(directory) as reader:
    reader.check()
    print([record.sequence for record in reader.records()])
    input()
    print([record.sequence for record in reader.records()])
"""


@pytest.fixture
def locked_dir(public_dir: Path) -> Path:
    """Return a directory whose journal holds records 1 to 5, all in the file, where nothing may be written."""
    writer = SqliteWriter(public_dir / "journal.db")
    writer.commit([entry(number) for number in range(1, 6)])
    writer.close()
    (public_dir / "journal.db").chmod(0o444)
    public_dir.chmod(0o555)
    return public_dir


def test_a_directory_where_nothing_may_be_written_is_read(locked_dir: Path, start: Start) -> None:
    process = start(READ_AS_NOBODY, locked_dir)
    assert process.communicate("\n", timeout=60.0) == ("[1, 2, 3, 4, 5]\n" * 2, "")
    assert [path.name for path in locked_dir.iterdir()] == ["journal.db"]


@pytest.mark.parametrize("leave_index", [True, False])
def test_a_kills_log_is_read_where_nothing_may_be_written(public_dir: Path, start: Start, leave_index: bool) -> None:
    """Log and tail of a killed writer hold what its file doesn't; the log's index may be missing, as in a copy."""
    killed = public_dir / "killed"
    killed.mkdir()
    writer = SqliteWriter(killed / "journal.db")
    writer.commit([entry(1), entry(2)])
    assert numbers_in(killed) == [1, 2]  # in the log now
    writer.commit([entry(3), entry(4), entry(5)])  # in the tail
    for name in ("journal.db", "journal.db-wal", "journal.db-tail", "journal.db-shm")[: 4 if leave_index else 3]:
        shutil.copy(killed / name, public_dir / name)
        (public_dir / name).chmod(0o444)
    writer.close()
    public_dir.chmod(0o555)
    process = start(READ_AS_NOBODY, public_dir)
    assert process.communicate("\n", timeout=60.0) == ("[1, 2, 3, 4, 5]\n" * 2, "")


def test_a_training_of_someone_else_is_read_while_it_goes_on(public_dir: Path, start: Start) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become someone else")
    writer = SqliteWriter(public_dir / "journal.db")
    writer.commit([entry(1)])
    process = start(READ_AS_NOBODY, public_dir)
    assert next_line(process) == "[1]"
    writer.commit([entry(2)])
    assert process.communicate("\n", timeout=60.0) == ("[1, 2]\n", "")
    writer.close()


def test_a_killed_trainings_journal_is_read_whole(tmp_path: Path, journal_kind: str, start: Start) -> None:
    writing = """
        import sys, time
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Kind, Run

        recorder = Recorder(sys.argv[1])
        recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        for step in range(1, 101):
            recorder.record(Kind.LOG, step, {"loss": 1.0})
        print("done", flush=True)
        time.sleep(60)
        """
    process = start(writing, tmp_path)
    assert next_line(process) == "done"
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    assert numbers_in(tmp_path) == list(range(1, 101))
    assert time.monotonic() - began < 5.0  # no lock of the dead is waited for, which would take as long
