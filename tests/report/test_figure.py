"""`Trainer.plot` returns a figure of the run, which a notebook shows."""

from __future__ import annotations

import base64
import math
import sys
import textwrap
from pathlib import Path

import nbclient
import nbformat
import pytest

import loopwright
from loopwright.errors import JournalNotFound, MissingExtra
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from loopwright.report.figure import figure_of
from loopwright.report.reading import read_run
from tests.parity.tiny import build

CELL = """
import sys
sys.path.insert(0, {root!r})
import loopwright
from tests.parity.tiny import build
trainer = build(loopwright, {directory!r}, disable_tqdm=True)
trainer.train()
trainer.plot()
"""


def test_figure_has_the_curves_of_the_run(tmp_path):
    trainer = build(loopwright, tmp_path, disable_tqdm=True)
    trainer.train()
    figure = trainer.plot()
    by_name = {trace.name: trace for trace in figure.data}
    assert {"loss", "eval_loss", "learning_rate", "grad_norm"} <= set(by_name)
    assert list(by_name["loss"].x) == [2, 4, 6, 8]
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert list(by_name["loss"].y) == logged


def test_figure_of_two_runs_lays_one_over_the_other(whole, resumed):
    figure = figure_of([read_run(whole), read_run(resumed)])
    losses = [trace for trace in figure.data if trace.name.endswith(": loss")]
    assert len(losses) == 2
    assert losses[0].xaxis == losses[1].xaxis
    assert losses[0].line.color != losses[1].line.color


def test_nan_is_a_gap_with_a_mark(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(Run(id="a" * 32, output_dir=str(tmp_path), name="<b>bold</b>"), purpose="training")
    for step, value in enumerate([3.0, math.nan, 2.0, -math.inf, 1.0], start=1):
        recorder.record(Kind.LOG, step, {"loss": value})
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    figure = figure_of([read_run(tmp_path)])
    curve, marks = figure.data[:2]
    assert list(curve.y) == [3.0, None, 2.0, None, 1.0]
    assert (list(marks.x), list(marks.text)) == ([2, 4], ["NaN", "-infinity"])
    assert "<b>" not in figure.layout.title.text


def test_before_anything_is_logged_it_says_so(tmp_path):
    with pytest.raises(JournalNotFound, match="holds no journal"):
        build(loopwright, tmp_path, disable_tqdm=True).plot()


def test_without_the_extra_the_pip_line_is_said(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[report\]"'):
        figure_of([read_run(whole)])


def test_notebook_shows_the_figure(tmp_path):
    root = str(Path(__file__).parents[2])
    cell = textwrap.dedent(CELL.format(root=root, directory=str(tmp_path / "out")))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    (shown,) = [
        output for output in notebook.cells[0].outputs if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    drawn = {trace["name"]: trace for trace in shown["data"]["application/vnd.plotly.v1+json"]["data"]}
    y = drawn["eval_loss"]["y"]
    values = len(y) if isinstance(y, list) else len(base64.b64decode(y["bdata"])) // 8
    assert values == 3
    assert all(output.get("name") != "stderr" for output in notebook.cells[0].outputs)
