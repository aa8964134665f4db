"""`loopwright report`, as a process: which file it writes, and what it says where it can't."""

from __future__ import annotations

import pytest

from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from tests.cli.running import loopwright


@pytest.fixture
def out(tmp_path):
    """A journal of two runs."""
    directory = tmp_path / "out"
    recorder = Recorder(directory)
    for number, letter in enumerate("ab"):
        run = Run(id=letter * 32, output_dir=str(directory), name=f"run {letter}", created_at=float(number))
        recorder.begin_attempt(run, purpose="training")
        for step in range(1, 4):
            recorder.record(Kind.LOG, step, {"loss": 1.0 / step})
        recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    return directory


def test_report_lies_beside_the_journal_and_is_of_the_newest_run(out):
    finished = loopwright("report", out)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, f"{out / 'report.html'}\n", "")
    assert "<h1>run b · bbbbbbbb</h1>" in (out / "report.html").read_text()


def test_report_of_a_named_run_into_a_named_file(out, tmp_path):
    for words in ((f"{out}:aaaa",), (out, "--run", "aaaa")):
        path = tmp_path / "one.html"
        finished = loopwright("report", *words, "--output", path)
        assert (finished.returncode, finished.stdout) == (0, f"{path}\n"), finished.stderr
        assert "<h1>run a · aaaaaaaa</h1>" in path.read_text()
        path.unlink()


def test_report_of_several_runs_has_each_once(out):
    finished = loopwright("report", f"{out}:aaaa", out, f"{out}:bbbb")
    assert finished.returncode == 0, finished.stderr
    assert "<h1>2 runs compared</h1>" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["{out}/nowhere"], 1, "loopwright: no such directory: {out}/nowhere\n"),
        (["{out}:cccc"], 1, "loopwright: run cccc: no such run in {out}; there are aaaaaaaa, bbbbbbbb\n"),
        (["{out}:x"], 1, "loopwright: run 'x': give the first digits of a run's id, 4 to 32 of 0-9 and a-f\n"),
        (["{out}", "--output", "{out}/journal.db/x.html"], 1, "can't be written to {out}/journal.db/x.html"),
        (["{out}", "{out}", "--run", "aaaa"], 2, "DIR:ID"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_reported_is_said(words, status, said, out):
    finished = loopwright("report", *(word.format(out=out) for word in words))
    assert (finished.returncode, finished.stdout) == (status, "")
    assert said.format(out=out) in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (out / "report.html").exists()
