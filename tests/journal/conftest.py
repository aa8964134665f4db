"""A run to record, both kinds of journal, and programs that are gone when a test is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwright.journal.lines import LineWriter
from loopwright.journal.recorder import Recorder
from loopwright.journal.writer import JournalWriter, SqliteWriter
from loopwright.records import Run

MakeRecorder = Callable[..., Recorder]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run() -> Run:
    """Return a run."""
    return Run(id="a" * 32, output_dir="out", name="first", created_at=1.0, arguments={"seed": 42})


@pytest.fixture(params=["sqlite", "lines"])
def journal_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let new journals be of either kind, here and in programs."""
    monkeypatch.setenv("LOOPWRIGHT_JOURNAL", request.param)
    return str(request.param)


@pytest.fixture
def make_recorder(tmp_path: Path) -> Iterator[MakeRecorder]:
    """Return a function that makes a recorder, which is closed at the end."""
    made: list[Recorder] = []

    def make(directory: Path = tmp_path) -> Recorder:
        made.append(Recorder(directory))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()


@pytest.fixture
def make_writer(tmp_path: Path, journal_kind: str) -> Iterator[Callable[[], Any]]:
    """Return a function that opens the writer of the journal in `tmp_path`; closed at the end."""
    made: list[JournalWriter] = []

    def make() -> JournalWriter:
        is_lines = journal_kind == "lines"
        path = tmp_path / ("journal.jsonl" if is_lines else "journal.db")
        made.append(LineWriter(path) if is_lines else SqliteWriter(path))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a program, of which nothing is left at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object) -> subprocess.Popen[str]:
        program = tmp_path / f"program-{len(started)}.py"
        program.write_text(textwrap.dedent(code), encoding="utf-8")
        command = [sys.executable, str(program), *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """Return a directory that every user may reach; `tmp_path` lies in one that is its owner's alone."""
    path = Path(tempfile.mkdtemp(prefix="loopwright-test-"))
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)
