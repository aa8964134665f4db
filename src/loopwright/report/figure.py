"""Draw a run's curves as one figure, which a notebook shows where it stands at a cell's end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loopwright._support.extras import require
from loopwright.errors import ArgumentError
from loopwright.report.charts import Chart, Curve, build_charts
from loopwright.report.views import RunView

_COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#a21caf", "#0e7490", "#b45309", "#4f46e5", "#be123c")
_DASHES = ("solid", "dash", "dot", "dashdot")
_ROW_PIXELS = 260


def figure_of(views: Sequence[RunView]) -> Any:
    """Return a figure of the main curves of `views`, a `plotly.graph_objects.Figure`; runs lie over each other.

    NaN and infinities are gaps, with a mark at the foot of the chart.

    Raises:
        ArgumentError: there is no run.
        MissingExtra: plotly is not installed.
    """
    if not views:
        raise ArgumentError("a figure needs a run")
    require("plotly", extra="report", purpose="a figure of a run")
    from plotly.subplots import make_subplots

    charts = [chart for chart in build_charts(views)[0] if chart.is_main]
    titles = [_plain(f"{chart.title}, {chart.unit}" if chart.unit else chart.title) for chart in charts]
    num_rows = max((len(charts) + 1) // 2, 1)
    figure = make_subplots(
        rows=num_rows, cols=2, subplot_titles=titles or None, horizontal_spacing=0.09, vertical_spacing=0.28 / num_rows
    )
    for place, chart in enumerate(charts):
        row, column = place // 2 + 1, place % 2 + 1
        for trace in _traces(chart, views):
            figure.add_trace(trace, row=row, col=column)
        figure.update_xaxes(title_text="step", row=row, col=column)
    title = views[0].title if len(views) == 1 else f"{len(views)} runs"
    figure.update_layout(
        title_text=_plain(title if charts else f"{title}: no number was logged more than once"),
        height=_ROW_PIXELS * num_rows + 120,
        hovermode="x unified",
        margin={"l": 50, "r": 20, "t": 80, "b": 50},
        template="plotly_white",
    )
    return figure


def _traces(chart: Chart, views: Sequence[RunView]) -> list[Any]:
    from plotly.graph_objects import Scatter

    finite = [value for curve in chart.curves for value in curve.values if value is not None]
    foot = min(finite, default=0.0)
    found = []
    for place, curve in enumerate(chart.curves):
        name = _plain(f"{views[curve.run].title}: {curve.name}" if len(views) > 1 else curve.name)
        line = _line(curve, place, len(views))
        found.append(Scatter(x=curve.steps, y=curve.values, name=name, mode="lines", line=line, connectgaps=False))
        if curve.marks:
            steps, words = zip(*curve.marks, strict=True)
            marker = {"symbol": "x", "size": 9, "color": "#b3261e"}
            found.append(
                Scatter(
                    x=steps,
                    y=[foot] * len(steps),
                    text=words,
                    name=f"{name}: NaN or infinite",
                    mode="markers",
                    marker=marker,
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    return found


def _line(curve: Curve, place: int, num_runs: int) -> dict[str, Any]:
    if num_runs == 1:
        return {"color": _COLOURS[place % len(_COLOURS)], "width": 2}
    return {"color": _COLOURS[curve.run % len(_COLOURS)], "dash": _DASHES[place % len(_DASHES)], "width": 2}


def _plain(text: str) -> str:
    """Return `text` so that the library, which understands some tags, takes none of it for one."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
