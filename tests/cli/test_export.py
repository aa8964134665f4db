"""`loopwright export`: every number comes back as it was logged, in each of the formats."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys

import pyarrow.parquet
import pytest

from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from tests.cli.running import loopwright


@pytest.fixture(scope="module")
def lines(whole):
    with JournalReader(whole) as reader:
        return reader.records(kinds=[Kind.LOG])


def test_csv_has_a_row_for_each_line_and_a_column_for_each_metric(whole, lines):
    finished = loopwright("export", whole)
    assert finished.returncode == 0, finished.stderr
    rows = list(csv.DictReader(io.StringIO(finished.stdout)))
    assert len(rows) == len(lines)
    assert list(rows[0])[:4] == ["step", "time", "attempt", "kind"]
    for row, line in zip(rows, lines, strict=True):
        assert (int(row["step"]), float(row["time"])) == (line.step, line.time)
        assert {name: float(text) for name, text in list(row.items())[4:] if text} == line.values


def test_json_has_an_object_a_line(whole, lines):
    rows = [json.loads(line) for line in loopwright("export", whole, "--format", "json").stdout.splitlines()]
    assert [{name: row[name] for name in line.values} for row, line in zip(rows, lines, strict=True)] == [
        line.values for line in lines
    ]


def test_parquet_has_the_same_numbers(whole, lines, tmp_path):
    finished = loopwright("export", whole, "--format", "parquet", "--output", tmp_path / "lines.parquet")
    assert finished.returncode == 0, finished.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "lines.parquet").to_pylist()
    for row, line in zip(rows, lines, strict=True):
        assert {name: row[name] for name in line.values} == line.values


def test_what_is_not_finite_stays_what_it_is(hostile, tmp_path):
    losses = [row["loss"] for row in csv.DictReader(io.StringIO(loopwright("export", hostile).stdout))]
    assert losses == ["1.0", "nan", "0.5", "inf", "0.25"]
    as_json = loopwright("export", hostile, "--format", "json").stdout

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = [json.loads(line, parse_constant=refuse)["loss"] for line in as_json.splitlines()]
    assert found == [1.0, "NaN", 0.5, "Infinity", 0.25]
    loopwright("export", hostile, "--format", "parquet", "--output", tmp_path / "lines")
    column = pyarrow.parquet.read_table(tmp_path / "lines")["loss"].to_pylist()
    assert math.isnan(column[1])
    assert column[3] == math.inf


def test_names_and_texts_of_any_kind_come_back(hostile):
    rows = list(csv.DictReader(io.StringIO(loopwright("export", hostile).stdout)))
    assert rows[1]["</script>"] == "1.0"
    assert rows[1]["new\nline"] == "1.0"
    assert rows[1]["said"] == "\x1b]0;owned\x07"


def test_a_file_that_is_there_is_overwritten_only_by_force(whole, tmp_path):
    target = tmp_path / "lines.csv"
    target.write_text("mine")
    finished = loopwright("export", whole, "--output", target)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"loopwright: --output {target} is there already: give another name, or --force\n"
    assert target.read_text() == "mine"
    finished = loopwright("export", whole, "--output", target, "--force")
    assert finished.returncode == 0
    assert target.read_text() == loopwright("export", whole).stdout
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_is_refused(whole, tmp_path):
    for target, words in ((tmp_path, "is a directory"), (tmp_path / "no" / "file", "there is no directory")):
        finished = loopwright("export", whole, "--output", target)
        assert finished.returncode == 1
        assert words in finished.stderr


def test_without_pyarrow_the_pip_line_is_said(whole):
    hidden = "import sys; sys.modules['pyarrow'] = None; from loopwright.cli.main import main; main()"
    command = [sys.executable, "-c", hidden, "export", str(whole), "--format", "parquet"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 1
    expected = 'loopwright: --format parquet needs the package pyarrow: pip install "loopwright[parquet]"\n'
    assert finished.stderr == expected


def test_a_parquet_column_that_holds_several_kinds_keeps_them_all(tmp_path):
    values = [{"a": 1}, {"a": 0.5}, {"b": "text"}, {"b": 2.0}, {"c": [1, 2]}, {"d": 10**30}, {"e": True}]
    recorder = Recorder(tmp_path / "out")
    recorder.begin_attempt(Run(id="e" * 32, output_dir=str(tmp_path / "out")), purpose="training")
    for step, logged in enumerate(values):
        recorder.record(Kind.LOG, step, logged)
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    target = tmp_path / "lines.parquet"
    finished = loopwright("export", tmp_path / "out", "--format", "parquet", "--output", target)
    assert finished.returncode == 0, finished.stderr
    table = pyarrow.parquet.read_table(target)
    kept = {name: [one for one in table[name].to_pylist() if one is not None] for name in "abcde"}
    assert kept == {"a": [1.0, 0.5], "b": ['"text"', "2.0"], "c": ["[1, 2]"], "d": [str(10**30)], "e": [True]}
