"""`loopwright tail` beside a training in another process: it follows, disturbs nothing, and knows when to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopwright.errors import JournalNotFound
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from tests.cli.running import COMMAND, loopwright, require_harmless

PROGRAM = Path(__file__).with_name("train_slowly.py")


@pytest.fixture
def train(tmp_path):
    """Start a slow training, and wait until it has written a log line."""
    started = []

    def begin(steps, seconds):
        command = [sys.executable, str(PROGRAM), str(tmp_path / "out"), str(steps), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        until = time.monotonic() + 150
        while not has_lines(tmp_path / "out"):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)


def has_lines(directory):
    try:
        with JournalReader(directory) as reader:
            return bool(reader.records(kinds=[Kind.LOG], limit=1))
    except JournalNotFound:  # there is none yet, or it is only just being made
        return False


def follow(directory, *words):
    command = [*COMMAND, "tail", str(directory), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Return what else it prints until it ends; `communicate` would lose what `readline` has read already."""
    output, errors = process.stdout.read(), process.stderr.read()
    process.wait(timeout=30)
    process.stdout.close()
    process.stderr.close()
    return output, errors


def test_tail_prints_lines_as_they_come_and_ends_with_the_training(train, tmp_path):
    training = train(12, 0.3)
    process = follow(tmp_path / "out", "--json")
    first = json.loads(process.stdout.readline())
    assert training.poll() is None, "the first line came while the training was at work"
    assert first["kind"] == "log"
    output, errors = finish(process)
    assert process.returncode == 0, errors
    lines = [first, *map(json.loads, output.splitlines())]
    assert [line["step"] for line in lines if line["kind"] == "log"] == [*range(1, 13), 12]
    losses = [line["values"]["loss"] for line in lines if "loss" in line.get("values", {})]
    assert len(losses) == 12
    assert lines[-1] == {"kind": "end", "status": "completed", "reason": None}
    assert training.wait(timeout=30) == 0


def test_tail_says_that_a_training_was_killed(train, tmp_path):
    training = train(200, 0.1)
    process = follow(tmp_path / "out")
    assert process.stdout.readline().startswith("step ")
    training.send_signal(signal.SIGKILL)
    output, errors = finish(process)
    assert (process.returncode, errors) == (1, "")
    assert output.splitlines()[-1].startswith(f"killed: its process {training.pid} on ")


def test_tail_leaves_cleanly_on_ctrl_c_and_the_training_goes_on(train, tmp_path):
    training = train(20, 0.2)
    process = follow(tmp_path / "out")
    assert process.stdout.readline().startswith("step ")
    process.send_signal(signal.SIGINT)
    output, errors = finish(process)
    assert (process.returncode, errors) == (0, "")
    assert "Traceback" not in output
    assert training.wait(timeout=60) == 0


def test_tail_looks_at_most_twice_a_second_and_takes_no_lock(train, tmp_path):
    train(40, 0.2)
    process = follow(tmp_path / "out")
    process.stdout.readline()
    time.sleep(1)
    before = cpu_seconds(process.pid)
    locks = Path("/proc/locks").read_text() if Path("/proc/locks").exists() else ""
    time.sleep(3)
    assert cpu_seconds(process.pid) - before < 0.3
    inode = (tmp_path / "out" / "journal.lock").stat().st_ino
    assert not [line for line in locks.splitlines() if f":{inode} " in line and f" {process.pid} " in line]
    process.send_signal(signal.SIGINT)
    finish(process)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_tail_of_a_training_that_is_over_prints_its_last_lines(whole):
    finished = loopwright("tail", whole, "--lines", "2")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 9", "step 9", "completed"]
    none = loopwright("tail", whole, "--lines", "0")
    assert none.stdout == "completed\n"
    everything = loopwright("tail", whole, "--lines", "1000")
    assert everything.stdout.splitlines()[0].startswith("step 2  loss ")


def test_tail_of_a_killed_training_says_so_at_once(killed):
    finished = loopwright("tail", killed, "--json")
    assert finished.returncode == 1
    end = json.loads(finished.stdout.splitlines()[-1])
    assert (end["status"], "is gone" in end["reason"]) == ("killed", True)


def test_tail_lets_nothing_of_a_run_write_to_the_terminal(hostile):
    finished = loopwright("tail", hostile)
    assert finished.returncode == 1
    require_harmless(finished.stdout)
    assert "[red]bold[/red] 0" in finished.stdout
    assert "loss nan" in finished.stdout
    assert "failed: ValueError: [red]bold[/red] \\x1b]0;owned" in finished.stdout
    as_json = loopwright("tail", hostile, "--json")
    assert json.loads(as_json.stdout.splitlines()[1])["values"]["loss"] == "NaN"
