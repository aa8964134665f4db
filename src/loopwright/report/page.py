"""Write the report: one HTML file that needs nothing else, neither a network nor a server.

Everything that comes from a run goes through the template's escaping, or as data into a script that is no script for
the browser; a content security policy in the file forbids to load anything.
"""

from __future__ import annotations

import base64
import gzip
import importlib
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from loopwright._support.extras import require, require_installed
from loopwright._support.files import write_text_atomically
from loopwright.errors import ArgumentError
from loopwright.report import formats
from loopwright.report.charts import Chart, build_charts
from loopwright.report.timeline import build_timeline
from loopwright.report.views import Costs, RunView

_PURPOSE = "the report"
_FILES = Path(__file__).with_name("page_files")
_PARTS = {
    "data": "Waiting for data",
    "forward_backward": "Forward and backward",
    "optimizer": "Optimizer",
    "callbacks": "Callbacks",
    "logging": "Log lines",
    "evaluation": "Evaluation",
    "saving": "Saving",
}


def write_report(views: Sequence[RunView], path: Path | str) -> Path:
    """Write the report of `views` to `path`, and return that.

    Raises:
        ArgumentError: there is no run to report, or the file can't be written.
        MissingExtra: jinja2 or plotly is not installed.
    """
    path = Path(path)
    text = render_report(views)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text)
    except OSError as error:
        raise ArgumentError(f"the report can't be written to {path}: {error.strerror or error}") from error
    return path


def render_report(views: Sequence[RunView]) -> str:
    """Return the report of `views` as HTML.

    Raises:
        ArgumentError: there is no run to report.
        MissingExtra: jinja2 or plotly is not installed.
    """
    if not views:
        raise ArgumentError("a report needs a run")
    jinja2 = require("jinja2", extra="report", purpose=_PURPOSE)
    library = _library()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("number_text", "duration_text", "time_text", "size_text", "value_text")
    environment.filters.update({name.removesuffix("_text"): getattr(formats, name) for name in names})
    charts, num_left_out = build_charts(views)
    page: str = environment.get_template("page.html.j2").render(
        views=views,
        timelines=[build_timeline(view) for view in views],
        costs=[None if view.costs is None else _shares(view.costs) for view in views],
        charts=charts,
        num_left_out=num_left_out,
        differences=_differences(views),
        marks=formats.STATUS_MARKS,
        data=_inline(_data(views, charts)),
        library=library,
        style=_read("page.css"),
        script=_read("page.js"),
        version=importlib.import_module("loopwright").__version__,  # by name: the package itself stands above all
        made_at=time.time(),
    )
    return page


def _data(views: Sequence[RunView], charts: Sequence[Chart]) -> dict[str, Any]:
    return {
        "runs": [view.title for view in views],
        "charts": [
            {
                "title": chart.title,
                "unit": chart.unit,
                "curves": [
                    {
                        "run": curve.run,
                        "name": curve.name,
                        "x": curve.steps,
                        "y": curve.values,
                        "marks": curve.marks,
                    }
                    for curve in chart.curves
                ],
            }
            for chart in charts
        ],
    }


def _inline(data: dict[str, Any]) -> str:
    """Return JSON that ends no script element, whatever the names in it; NaN would be an error here, not a number."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shares(costs: Costs) -> list[tuple[str, str, float, float]]:
    """Return key, name, seconds and share of 100 of each part, in the order of a step; what no part has is the rest."""
    rest = max(costs.total - sum(costs.parts.values()), 0.0)
    parts = [(name, title, costs.parts[name]) for name, title in _PARTS.items() if name in costs.parts]
    parts += [(name, name, seconds) for name, seconds in costs.parts.items() if name not in _PARTS]
    total = max(costs.total, sum(costs.parts.values())) or 1.0
    return [
        (name, title, seconds, 100 * seconds / total) for name, title, seconds in [*parts, ("rest", "The rest", rest)]
    ]


def _differences(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """Return, by argument that is not the default in some run: its name, default, and value in each run."""
    defaults: dict[str, tuple[bool, Any]] = {}
    for view in views:
        for one in view.differences:
            defaults.setdefault(one.name, (one.is_known, one.default))
    rows = []
    for name, (is_known, default) in sorted(defaults.items()):
        changed = {place for place, view in enumerate(views) if any(one.name == name for one in view.differences)}
        cells = [(view.arguments.get(name), place in changed) for place, view in enumerate(views)]
        values = {formats.value_text(value) for value, _ in cells}
        rows.append(
            {"name": name, "is_known": is_known, "default": default, "cells": cells, "is_common": len(values) == 1}
        )
    return rows


@cache
def _library() -> str:
    """Return the plotting library's script, compressed, as base64: 2 MB rather than 4.8."""
    require_installed("plotly", extra="report", purpose=_PURPOSE)
    spec = importlib.util.find_spec("plotly")  # importing it takes seconds, and only its file is wanted
    folders = spec.submodule_search_locations if spec is not None else None
    script = Path(next(iter(folders or [os.curdir]))) / "package_data" / "plotly.min.js"
    try:
        return base64.b64encode(gzip.compress(script.read_bytes(), 9, mtime=0)).decode()
    except OSError as error:
        raise ArgumentError(f"{script} of the package plotly can't be read: {error.strerror}") from error


@cache
def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
