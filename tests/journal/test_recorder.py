from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import ArgumentError
from loopwright.journal import file
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Decision, Kind, Run, Status
from tests.journal.programs import next_line, output_of, steps_in, tell

MakeRecorder = Callable[..., Recorder]
Start = Callable[..., Any]

NAMES = {"sqlite": "journal.db", "lines": "journal.jsonl"}


def numbers_in(directory: Path) -> list[int]:
    with JournalReader(directory) as reader:
        return [record.sequence for record in reader.records()]


def write_run(directory: Path, run: Run, steps: int = 5, status: Status = Status.COMPLETED) -> None:
    recorder = Recorder(directory)
    recorder.begin_attempt(run, purpose="training")
    for step in range(1, steps + 1):
        recorder.record(Kind.LOG, step, {"loss": 1.0})
    recorder.end_attempt(status)
    recorder.close()


def set_aside_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if "damaged" in path.name)


# Runs and attempts


def test_nothing_is_opened_by_making_one(tmp_path: Path, make_recorder: MakeRecorder) -> None:
    make_recorder(tmp_path / "out").close()
    assert not (tmp_path / "out").exists()


def test_a_run_and_its_attempt_are_recorded_with_all_that_is_known(
    tmp_path: Path, journal_kind: str, make_recorder: MakeRecorder
) -> None:
    run = Run(
        id="c" * 32,
        output_dir=str(tmp_path),
        name="größer",
        project="digits",
        created_at=12.5,
        arguments={"seed": 42, "learning_rate": 1e-3, "label_names": ["labels"]},
        parameters={"hidden_size": 4, "limit": float("inf")},
        parent_id="d" * 32,
        parent_step=7,
        trial_name="trial-1",
        trial_parameters={"learning_rate": 1e-3},
    )
    recorder = make_recorder()
    number = recorder.begin_attempt(run, purpose="training", first_step=7, versions={"torch": "2.13.0"})
    with JournalReader(tmp_path) as reader:
        assert reader.path == recorder.path
        assert reader.runs() == [run]
        (attempt,) = reader.attempts()
    assert (attempt.number, attempt.run_id, attempt.purpose, attempt.first_step) == (number, run.id, "training", 7)
    assert (attempt.pid, attempt.host) == (os.getpid(), os.uname().nodename)
    assert (attempt.versions, attempt.arguments) == ({"torch": "2.13.0"}, run.arguments)
    assert (attempt.status, attempt.ended_at, attempt.reason) == (Status.RUNNING, None, None)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.RUNNING])
def test_an_attempt_keeps_how_it_ended(tmp_path: Path, run: Run, make_recorder: MakeRecorder, status: Status) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    recorder.end_attempt(status, "by hand")
    recorder.end_attempt(Status.FAILED, "once more")
    with JournalReader(tmp_path) as reader:
        (attempt,) = reader.attempts()
    assert (attempt.status, attempt.reason) == (status, "by hand")
    assert attempt.ended_at is not None
    assert attempt.ended_at >= attempt.started_at


def test_text_that_no_file_can_hold_does_not_end_a_training(
    tmp_path: Path, journal_kind: str, make_recorder: MakeRecorder
) -> None:
    """A file's name may hold bytes that are no text, and an error's message that name."""
    recorder = make_recorder()
    odd = "\udcff"
    recorder.begin_attempt(
        Run(id="a" * 32, output_dir="out", name=odd, project=odd, trial_name=odd), purpose="training"
    )
    recorder.record(Kind.LOG, 1, {odd: 1.0}, added=[odd])
    recorder.end_attempt(Status.FAILED, f"OSError: no such file: {odd}")
    assert recorder.unwritten == 0
    with JournalReader(tmp_path) as reader:
        (run,), (attempt,), (record,) = reader.runs(), reader.attempts(), reader.records()
    assert (run.name, run.project, run.trial_name) == ("\\udcff",) * 3
    assert attempt.reason == "OSError: no such file: \\udcff"
    assert record.values == {odd: 1.0}


def test_an_attempt_that_a_kill_left_open_is_found_by_the_next_start(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder, start: Start
) -> None:
    process = start(
        """
        import sys, time
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Kind, Run

        recorder = Recorder(sys.argv[1])
        recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        print(recorder.record(Kind.LOG, 1, {"loss": 1.0}), flush=True)
        time.sleep(60)
        """,
        tmp_path,
    )
    assert next_line(process) == "1"
    process.send_signal(signal.SIGKILL)
    process.wait()
    recorder = make_recorder()
    assert recorder.begin_attempt(run, purpose="training") == 2
    assert recorder.record(Kind.LOG, 2, {"loss": 1.0}) == 2
    with JournalReader(tmp_path) as reader:
        first, second = reader.attempts()
    assert (first.status, first.reason, second.status) == (
        Status.KILLED,
        "found open by the next start",
        Status.RUNNING,
    )
    assert first.ended_at is not None


def test_a_program_that_leaves_in_the_middle_says_so(tmp_path: Path, journal_kind: str, start: Start) -> None:
    leaving = """
        import sys
        from loopwright.journal.recorder import Recorder
        from loopwright.records import Decision, Kind, Run

        recorder = Recorder(sys.argv[1])
        recorder.begin_attempt(Run(id="a" * 32, output_dir="out"), purpose="training")
        recorder.record(Kind.LOG, 1, {"loss": 1.0})
        recorder.decide(Decision(2, "MyCallback", "on_step_end", "should_save", True))
        sys.exit(0)
        """
    assert output_of(start(leaving, tmp_path)) == ""
    with JournalReader(tmp_path) as reader:
        (attempt,) = reader.attempts()
        assert [record.kind for record in reader.records()] == [Kind.LOG, Kind.DECISION]
    assert (attempt.status, attempt.reason) == (Status.INTERRUPTED, "the program left in the middle")


def test_a_training_ends_the_evaluation_before_it(tmp_path: Path, run: Run, make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="evaluation")
    recorder.begin_attempt(run, purpose="training")
    with JournalReader(tmp_path) as reader:
        assert [attempt.status for attempt in reader.attempts()] == [Status.COMPLETED, Status.RUNNING]


# Records


def test_numbers_go_on_from_attempt_to_attempt(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder
) -> None:
    for attempt in range(1, 4):
        recorder = make_recorder()
        assert recorder.begin_attempt(run, purpose="training") == attempt
        assert recorder.record(Kind.LOG, attempt, {"loss": 1.0}) == attempt
        assert recorder.sync() == recorder.position == attempt
        recorder.close()
    assert numbers_in(tmp_path) == [1, 2, 3]


def test_a_decision_is_written_with_what_comes_next(tmp_path: Path, run: Run, make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()
    decision = Decision(3, "MyCallback", "on_step_end", "should_log", True)
    recorder.decide(decision)  # nothing has begun, so nobody set anything
    recorder.begin_attempt(run, purpose="training")
    with JournalReader(tmp_path) as reader:
        recorder.decide(decision)
        assert reader.records() == []
        recorder.record(Kind.LOG, 3, {"loss": 1.0})
        recorder.decide(decision)
        recorder.sync()
        recorder.decide(decision)
        recorder.end_attempt(Status.STOPPED)
        found = reader.records()
    kinds = [Kind.DECISION, Kind.LOG, Kind.DECISION, Kind.DECISION]
    assert [(record.sequence, record.kind, record.step) for record in found] == [
        (number, kind, 3) for number, kind in enumerate(kinds, 1)
    ]
    assert found[0].values == {
        "callback": "MyCallback",
        "event": "on_step_end",
        "flag": "should_log",
        "value": True,
    }


def test_records_after_the_end_still_count(tmp_path: Path, run: Run, make_recorder: MakeRecorder) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    recorder.end_attempt(Status.COMPLETED)
    recorder.record(Kind.LOG, 1, {"eval_loss": 1.0})
    recorder.close()
    recorder.record(Kind.PREDICTION, 1, {"test_loss": 1.0})
    recorder.sync()
    with JournalReader(tmp_path) as reader:
        assert [record.kind for record in reader.records(run.id)] == [Kind.LOG, Kind.PREDICTION]


# Which file


def test_the_variable_chooses_the_kind_of_a_new_journal_and_never_a_second_one(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first, second in (("lines", "sqlite"), ("sqlite", "lines")):
        directory = tmp_path / first
        monkeypatch.setenv("LOOPWRIGHT_JOURNAL", first)
        write_run(directory, run)
        monkeypatch.setenv("LOOPWRIGHT_JOURNAL", second)
        write_run(directory, run)  # readers would go on looking at the first one
        assert {path.name for path in directory.iterdir()} == {NAMES[first], "journal.lock"}
        assert steps_in(directory) == [1, 2, 3, 4, 5] * 2


def test_a_value_of_the_variable_that_means_nothing_is_refused_and_nothing_stays_locked(
    tmp_path: Path, run: Run, make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_JOURNAL", "xml")
    with pytest.raises(ArgumentError, match="LOOPWRIGHT_JOURNAL='xml': expected one of sqlite, lines"):
        make_recorder().begin_attempt(run, purpose="training")
    monkeypatch.delenv("LOOPWRIGHT_JOURNAL")
    write_run(tmp_path, run)
    assert len(numbers_in(tmp_path)) == 5


def test_on_a_network_filesystem_the_journal_is_lines_which_is_said_once(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file, "is_network_filesystem", lambda path: True)
    write_run(tmp_path, run)
    write_run(tmp_path, run)
    assert {path.name for path in tmp_path.iterdir()} == {"journal.jsonl", "journal.lock"}
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "network filesystem: the journal is journal.jsonl there" in warning


# A disk that refuses

# Does what it is told, a word a line, and answers with what it has come to. The file may grow no further after "full",
# as on a full disk; the space is back after "space".
ON_A_FULL_DISK = """
import json, logging, os, resource, sys, time
from loopwright.journal import file
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status

file.RETRY_SECONDS = 0.02
said = []

class Keep(logging.Handler):
    def emit(self, record):
        said.append((record.levelname, record.getMessage()))

logging.getLogger("loopwright").addHandler(Keep())
directory = sys.argv[1]
recorder = Recorder(directory)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
if "nobody" in sys.argv and os.getuid() == 0:
    os.setuid(65534)
step, slowest, resumed_at = 0, 0.0, None
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "begin":
        recorder.begin_attempt(Run(id=number * 32, output_dir="out"), purpose="training")
        step = 100 * (ord(number) - ord("a"))
    elif word == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), hard))
    elif word == "space":
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    elif word == "record":
        for _ in range(int(number)):
            step += 1
            began = time.monotonic()
            recorder.record(Kind.LOG, step, {"loss": 1.0, "text": "x" * 500})
            slowest = max(slowest, time.monotonic() - began)
    elif word == "wait":
        time.sleep(0.03)
    elif word == "save":
        recorder.sync()
    elif word == "end":
        recorder.end_attempt(Status.COMPLETED)
    elif word == "close":
        recorder.close()
    print(json.dumps({"unwritten": recorder.unwritten, "said": said, "slowest": slowest}), flush=True)
"""


class _Disk:
    """A program that records, and the disk that it does so on."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.said: list[list[str]] = []
        self.unwritten = 0
        self.slowest = 0.0

    def do(self, *words: str) -> None:
        for word in words:
            tell(self.process, word)
            answer = json.loads(next_line(self.process))
            self.unwritten, self.said, self.slowest = answer["unwritten"], answer["said"], answer["slowest"]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdin = None
        output_of(self.process)


def test_a_full_disk_is_said_once_and_everything_is_written_when_space_is_back(
    tmp_path: Path, journal_kind: str, start: Start
) -> None:
    disk = _Disk(start(ON_A_FULL_DISK, tmp_path))
    disk.do("begin a", "record 20", "full 16000", "record 20", "wait", "record 20", "save", "record 5")
    assert disk.unwritten > 20 if journal_kind == "lines" else disk.unwritten == 0  # the tail had its room before
    assert len(disk.said) == 1
    level, words = disk.said[0]
    assert level == "WARNING"
    assert f"the journal in {tmp_path} can't be written (" in words
    assert "records are held in memory, to be written when that works again, tried every" in words
    assert disk.slowest < 1.0  # the training goes on
    disk.do("space", "wait", "record 5", "save")
    assert disk.unwritten == 0
    assert [level for level, _ in disk.said] == ["WARNING", "WARNING"]
    assert f"{NAMES[journal_kind]} takes records again" in disk.said[1][1]
    disk.do("record 5", "end")
    assert len(disk.said) == 2
    disk.end()
    assert steps_in(tmp_path) == list(range(1, 76))
    assert numbers_in(tmp_path) == list(range(1, 76))


def test_each_time_that_the_disk_is_full_is_said(tmp_path: Path, journal_kind: str, start: Start) -> None:
    disk = _Disk(start(ON_A_FULL_DISK, tmp_path))
    disk.do("begin a")
    for _ in range(2):
        disk.do("full 0", "record 3", "space", "wait", "record 1")
    assert ["takes records again" in words for _, words in disk.said] == [False, True, False, True]
    disk.end()
    assert steps_in(tmp_path) == list(range(1, 9))


def test_a_disk_that_is_full_from_the_start_gets_it_all_later(tmp_path: Path, journal_kind: str, start: Start) -> None:
    disk = _Disk(start(ON_A_FULL_DISK, tmp_path))
    disk.do("full 0", "begin a", "record 3", "wait", "record 3")
    assert disk.unwritten == 8  # the run and its attempt too
    assert len(disk.said) == 1
    disk.do("space", "wait", "record 1")
    assert disk.unwritten == 0
    disk.do("end")
    disk.end()
    assert steps_in(tmp_path) == list(range(1, 8))
    assert numbers_in(tmp_path) == list(range(1, 8))
    with JournalReader(tmp_path) as reader:
        assert [attempt.status for attempt in reader.attempts("a" * 32)] == [Status.COMPLETED]
    assert set_aside_in(tmp_path) == []


def test_a_disk_that_is_full_when_a_run_goes_on_overwrites_nothing(
    tmp_path: Path, journal_kind: str, run: Run, start: Start
) -> None:
    write_run(tmp_path, run, status=Status.RUNNING)
    disk = _Disk(start(ON_A_FULL_DISK, tmp_path))
    disk.do("full 0", "begin b", "record 3")
    assert disk.unwritten == 6  # what was left open has ended; run, attempt, and what was recorded
    disk.do("space", "wait", "record 1", "end")
    assert disk.unwritten == 0
    disk.end()
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 101, 102, 103, 104]
    assert numbers_in(tmp_path) == list(range(1, 10))
    with JournalReader(tmp_path) as reader:
        found = [(attempt.number, attempt.run_id[0], attempt.status) for attempt in reader.attempts()]
    assert found == [(1, "a", Status.KILLED), (2, "b", Status.COMPLETED)]


def test_what_a_disk_never_took_is_counted_as_lost(tmp_path: Path, journal_kind: str, start: Start) -> None:
    disk = _Disk(start(ON_A_FULL_DISK, tmp_path))
    disk.do("begin a", "record 5", "full 0", "record 3", "close")
    (words,) = [words for level, words in disk.said if level == "ERROR"]
    in_tail = 3 if journal_kind == "sqlite" else 0
    assert words == f"{tmp_path}: {4 - in_tail} entries could not be written and are lost"  # and how it ended
    disk.end()
    assert steps_in(tmp_path) == list(range(1, 6 + in_tail))


def test_what_waits_is_written_by_close_without_another_wait(tmp_path: Path, journal_kind: str, start: Start) -> None:
    disk = _Disk(start(ON_A_FULL_DISK.replace("RETRY_SECONDS = 0.02", "RETRY_SECONDS = 60.0"), tmp_path))
    disk.do("begin a", "full 0", "record 3", "space", "wait", "record 1", "close")
    assert disk.unwritten == 0
    assert not any(level == "ERROR" for level, _ in disk.said)
    disk.end()
    assert steps_in(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize("num_before", [0, 5])
def test_a_directory_where_nothing_may_be_written_holds_up_no_training_either(
    public_dir: Path, journal_kind: str, run: Run, start: Start, num_before: int
) -> None:
    if num_before:
        write_run(public_dir, run, num_before)
    for path in public_dir.iterdir():
        path.chmod(0o444)
    public_dir.chmod(0o555)
    disk = _Disk(start(ON_A_FULL_DISK, public_dir, "nobody"))
    disk.do("begin b", "record 3", "wait", "record 3")
    assert disk.unwritten == 8
    assert len(disk.said) == 1
    public_dir.chmod(0o777)
    for path in public_dir.iterdir():
        path.chmod(0o666)
    disk.do("wait", "record 1", "end")
    assert disk.unwritten == 0
    disk.end()
    assert steps_in(public_dir) == [*range(1, num_before + 1), *range(101, 108)]
    with JournalReader(public_dir) as reader:
        assert [attempt.status for attempt in reader.attempts("b" * 32)] == [Status.COMPLETED]
        assert len(reader.records("a" * 32)) == num_before


def test_what_another_process_wrote_meanwhile_is_not_overwritten(
    public_dir: Path, journal_kind: str, run: Run, start: Start
) -> None:
    """Without the lock, which nobody can have there, the next numbers may be taken by the time they are written."""
    write_run(public_dir, run, 2)
    for path in public_dir.iterdir():
        path.chmod(0o444)
    public_dir.chmod(0o555)
    disk = _Disk(start(ON_A_FULL_DISK, public_dir, "nobody"))
    disk.do("begin b", "record 3")
    public_dir.chmod(0o755)
    for path in public_dir.iterdir():
        path.chmod(0o644)
    write_run(public_dir, run, 4)
    public_dir.chmod(0o777)
    for path in public_dir.iterdir():
        path.chmod(0o666)
    disk.do("wait", "record 1", "end")
    disk.end()
    with JournalReader(public_dir) as reader:
        assert [record.step for record in reader.records("a" * 32)] == [1, 2, 1, 2, 3, 4]
        assert [record.step for record in reader.records("b" * 32)] == [101, 102, 103, 104]
        assert [attempt.status for attempt in reader.attempts()] == [Status.COMPLETED] * 3


# A file that is damaged


def _garbage(content: bytes) -> bytes:
    return os.urandom(len(content))


def _cut_in_the_header(content: bytes) -> bytes:
    return content[:15]


def _cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2 + 77]


def _zeroed_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 8192 * 4096
    return content[:middle] + bytes(4096) + content[middle + 4096 :]


def _zeroed_at_the_beginning(content: bytes) -> bytes:
    return bytes(4096) + content[4096:]


def _without_version(content: bytes) -> bytes:
    return content[:60] + bytes(4) + content[64:]


def _text_changed(content: bytes) -> bytes:
    return content.replace(b'{"seed": 42}', b'{"seed": 42)')


SQLITE_DAMAGE = [
    _garbage,
    _cut_in_the_header,
    _cut_in_half,
    _zeroed_in_the_middle,
    _zeroed_at_the_beginning,
    _without_version,
    _text_changed,
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [*(("journal.db", damage) for damage in SQLITE_DAMAGE)]
    + [("journal.jsonl", damage) for damage in (_garbage, _cut_in_the_header)],
)
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path,
    run: Run,
    make_recorder: MakeRecorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_JOURNAL", {".db": "sqlite", ".jsonl": "lines"}[Path(name).suffix])
    kept = []
    for _ in range(2):  # the second time the name of the first is taken
        write_run(tmp_path, run, 1000)
        kept.append(damage((tmp_path / name).read_bytes()))
        (tmp_path / name).write_bytes(kept[-1])
        caplog.clear()
        recorder = make_recorder()
        recorder.begin_attempt(run, purpose="training")
        recorder.record(Kind.LOG, 1, {"loss": 1.0})
        assert recorder.unwritten == 0
        assert steps_in(tmp_path) == [1]
        (warning,) = [record.getMessage() for record in caplog.records]
        assert f"{tmp_path / name} is damaged (" in warning
        assert f"set aside as {set_aside_in(tmp_path)[-1].name}, and a new one begun" in warning
        recorder.close()
        (tmp_path / name).unlink()
    assert [path.read_bytes() for path in set_aside_in(tmp_path)] == kept


def damage_while_open(recorder: Recorder) -> None:
    """Overwrite all pages but the first, behind the back of a connection that has to read them again."""
    recorder.sync()
    connection = sqlite3.connect(recorder.path)
    connection.execute("UPDATE attempts SET host = 'another'")
    connection.commit()
    connection.close()
    with recorder.path.open("r+b") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(4096)
        opened.write(b"\xff" * (size - 4096))


def test_a_file_that_is_damaged_while_open_is_replaced_with_the_newest_records(
    tmp_path: Path, run: Run, make_recorder: MakeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    sink = SinkEntry(run.id, "wandb", "module:name", {}, {}, "delivery", False)
    recorder.add_sink(sink)
    for step in range(1, 101):
        recorder.record(Kind.LOG, step, {"loss": 1.0})
    damaged = set()
    for step in (101, 102):
        damage_while_open(recorder)
        damaged.add(recorder.path.stat().st_ino)
        assert recorder.record(Kind.LOG, step, {"loss": 1.0}) == step
        recorder.sync()
        assert recorder.unwritten == 0
        # What has come since the last statement of another kind is in the tail, damaged or not.
        assert steps_in(tmp_path) == (list(range(1, 102)) if step == 101 else [102])
    assert {path.stat().st_ino for path in set_aside_in(tmp_path) if path.suffix == ".db"} == damaged
    recorder.end_attempt(Status.COMPLETED)
    with JournalReader(tmp_path) as reader:
        assert reader.run(run.id) is not None
        assert [attempt.status for attempt in reader.attempts(run.id)] == [Status.COMPLETED]
        assert reader.sinks(run.id) == [sink]
        assert [record.sequence for record in reader.records(run.id)] == [102]
    messages = [record.getMessage() for record in caplog.records]
    assert len([words for words in messages if "set aside as" in words]) == 2


def test_the_file_that_replaces_a_damaged_one_knows_how_the_attempt_had_ended(
    tmp_path: Path, run: Run, make_recorder: MakeRecorder
) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    recorder.record(Kind.LOG, 1, {"loss": 1.0})
    recorder.end_attempt(Status.COMPLETED)
    damage_while_open(recorder)
    recorder.record(Kind.PREDICTION, 1, {"test_loss": 1.0})
    recorder.sync()
    with JournalReader(tmp_path) as reader:
        assert [attempt.status for attempt in reader.attempts(run.id)] == [Status.COMPLETED]
        assert [record.kind for record in reader.records(run.id)] == [Kind.PREDICTION]


# A journal that is lost


def test_a_run_whose_journal_is_gone_takes_numbers_that_no_tracker_has_seen(
    tmp_path: Path, journal_kind: str, run: Run, make_recorder: MakeRecorder
) -> None:
    write_run(tmp_path, run, 40)
    (tmp_path / NAMES[journal_kind]).unlink()
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training", first_step=30, resumed_at={"position": 30, "awaited": []})
    first = recorder.record(Kind.LOG, 31, {"loss": 1.0})
    assert first > 10**15
    assert recorder.record(Kind.LOG, 32, {"loss": 1.0}) == first + 1
    with JournalReader(tmp_path) as reader:
        rewind, *logs = reader.records(run.id)
    assert (rewind.kind, rewind.step, rewind.values) == (Kind.REWIND, 31, {"from_step": 31})
    assert rewind.sequence == first - 1
    assert [record.step for record in logs] == [31, 32]
    recorder.close()
    again = make_recorder()
    again.begin_attempt(run, purpose="training", first_step=32, resumed_at={"position": first + 1, "awaited": []})
    assert again.record(Kind.LOG, 33, {"loss": 1.0}) == first + 2  # the journal is whole again
