"""The report as a file: complete in itself, everything from a run escaped, nothing false in it. No browser needed."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser

import pytest

from loopwright.errors import ArgumentError, MissingExtra
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from loopwright.report.page import render_report, write_report
from loopwright.report.reading import read_run
from loopwright.report.sampling import choose_points
from tests.report.hostility import HOSTILE


class Elements(HTMLParser):
    """Notes the elements of a page, their attributes and the text that is shown."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.shown = []
        self._in = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._in.append(tag)

    def handle_endtag(self, tag):
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._in):
            self.shown.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.shown).split())


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_every_text_of_a_run_is_escaped(hostile, whole):
    for views in ([read_run(hostile)], [read_run(hostile), read_run(whole)]):
        page = render_report(views)
        elements = Elements(page)
        tags = [tag for tag, _ in elements.found]
        assert tags.count("script") == 3  # data, library, our own
        assert "img" not in tags
        assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]
        assert elements.text.count("{{ 7 * 7 }}") > 8  # seen as it is, not executed
        assert "49" not in elements.text.split()
        drawn = {curve["name"] for chart in data_of(page)["charts"] for curve in chart["curves"]}
        assert {HOSTILE, f"eval_{HOSTILE}"} <= drawn


def test_nonfinite_values_are_gaps_and_no_numbers(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(Run(id="a" * 32, output_dir=str(tmp_path)), purpose="training")
    for step, value in enumerate([3.0, math.nan, math.inf, -math.inf, 1.0], start=1):
        recorder.record(Kind.LOG, step, {"loss": value})
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    page = render_report([read_run(tmp_path)])
    (curve,) = data_of(page)["charts"][0]["curves"]
    assert curve["y"] == [3.0, None, None, None, 1.0]
    assert curve["marks"] == [[2, "NaN"], [3, "+infinity"], [4, "-infinity"]]
    assert "loss: 3 values NaN or infinite, shown as gaps with ✕ (NaN at step 2," in Elements(page).text


def test_long_curve_is_drawn_from_its_extremes_and_says_so(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(Run(id="a" * 32, output_dir=str(tmp_path)), purpose="training")
    for step in range(1, 5001):
        recorder.record(Kind.LOG, step, {"loss": 50.0 if step == 3333 else math.nan if step == 4000 else 1.0})
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    page = render_report([read_run(tmp_path)])
    curve = data_of(page)["charts"][0]["curves"][0]
    assert len(curve["x"]) <= 2010
    assert max(value for value in curve["y"] if value is not None) == 50.0
    assert curve["marks"] == [[4000, "NaN"]]
    assert "of 5,000 values are drawn" in Elements(page).text


def test_extremes_ends_and_gaps_are_kept_whatever_the_curve():
    values = [math.sin(place / 50) for place in range(100_000)]
    values[77] = math.nan
    values[50_001] = -9.0
    values[50_002] = 9.0
    chosen = choose_points(values)
    assert {0, 77, 50_001, 50_002, 99_999} <= set(chosen)
    assert len(chosen) <= 2_010
    assert chosen == sorted(chosen)
    assert choose_points([math.nan] * 10_000)[0] == 0
    assert choose_points([1.0, 2.0]) == [0, 1]


def test_page_says_what_is_known_of_the_run(resumed):
    view = read_run(resumed)
    text = Elements(render_report([view])).text
    for words in (
        f"resumed · {view.run.short_id}",
        "✓ stopped",
        "✗ killed",
        f"step {view.last_step} EarlyStoppingCallback set should_training_stop in on_evaluate",
        "attempt 1 crashed or was killed",
        "attempt 2 went on from step 6",
        "Forward and backward",
        "EarlyStoppingCallback .on_evaluate",
        "This run reports to no tracker",
        "per_device_train_batch_size 4 8",
        "torch",
    ):
        assert words in text, words


def test_what_trackers_lack_is_on_the_page(undelivered):
    view = read_run(undelivered)
    text = Elements(render_report([view])).text
    assert f"behind {view.undelivered}" in text
    assert f"loopwright sync {undelivered}" in text


def test_runs_are_compared(whole, resumed):
    page = render_report([read_run(whole), read_run(resumed)])
    text = Elements(page).text
    assert "2 runs compared" in text
    assert "learning_rate ≠ 5e-05 0.3 5e-05" in text
    loss = data_of(page)["charts"][0]
    assert loss["title"] == "Loss"
    assert [curve["run"] for curve in loss["curves"]] == [0, 0, 1, 1]


def test_file_is_complete_in_itself_and_small(whole, tmp_path):
    path = write_report([read_run(whole)], tmp_path / "new folder" / "report.html")
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    elements = Elements(page)
    addresses = [
        value
        for _, attrs in elements.found
        for name, value in attrs.items()
        if name in ("src", "href", "action", "data")
    ]
    assert [address for address in addresses if not address.startswith(("#", "data:"))] == []
    (policy,) = [attrs["content"] for tag, attrs in elements.found if attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)


def test_file_that_cannot_be_written_is_said_so(whole, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArgumentError, match=r"can't be written to .*file/report\.html"):
        write_report([read_run(whole)], tmp_path / "file" / "report.html")
    with pytest.raises(ArgumentError, match="needs a run"):
        write_report([], tmp_path / "report.html")


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_without_the_extra_the_pip_line_is_said(package, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(
        "loopwright.report.page._library", __import__("loopwright.report.page", fromlist="_")._library.__wrapped__
    )
    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[report\]"'):
        write_report([read_run(whole)], tmp_path / "report.html")
