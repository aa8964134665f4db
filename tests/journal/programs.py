"""What tests of the journal say to programs, and read from them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from loopwright.journal.reader import JournalReader
from loopwright.journal.schema import Operation


def entry(sequence: int, step: int | None = None, text: str = '{"loss": 0.5}') -> Operation:
    """Return the statement that writes a log record of attempt 1."""
    return ("record", (sequence, 1, "log", sequence if step is None else step, 1.5, text, None, None))


def steps_in(directory: Path) -> list[int]:
    """Return the steps of the records that a journal, which must be whole, holds."""
    with JournalReader(directory) as reader:
        reader.check()
        return [record.step for record in reader.records()]


def next_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints; where it has ended instead, say why."""
    assert process.stdout is not None
    printed = process.stdout.readline()
    assert printed, process.communicate()[1]
    return printed.rstrip("\n")


def tell(process: subprocess.Popen[str], words: str = "") -> None:
    """Give a program a line to read."""
    assert process.stdin is not None
    process.stdin.write(f"{words}\n")
    process.stdin.flush()


def output_of(process: subprocess.Popen[str], timeout: float = 60.0) -> str:
    """Return what else a program prints until its end, which must be a good one."""
    printed, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return printed
