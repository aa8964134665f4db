"""Render a log history for a Flyte Deck: a plot of the losses, and a table of everything."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_FIRST_COLUMNS = ("step", "epoch")
_STYLE = """
<style>
.log-history { font-family: system-ui, sans-serif; }
.log-history table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.log-history th, .log-history td { padding: 4px 12px; text-align: right; white-space: nowrap; }
.log-history thead th { background: #f3f4f6; border-bottom: 2px solid #d1d5db; position: sticky; top: 0; }
.log-history tbody tr:nth-child(even) { background: #fafafa; }
.log-history .table { max-height: 480px; overflow: auto; border: 1px solid #e5e7eb; }
</style>
"""


def render(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the HTML, which asks nothing of the network.

    Arguments:
        history: `state.log_history`: a dict for each log line, with its "step".
    """
    return f'{_STYLE}<div class="log-history">{_plot(history)}<div class="table">{_table(history)}</div></div>'


def _plot(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the losses by step as a drawing in the page; nothing where there are none."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    if not (names := _losses(history)):
        return ""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name in names:
        points = [(line["step"], line[name]) for line in history if name in line]
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker="o" if len(points) < 20 else None)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    text = drawing.getvalue()
    return text[text.index("<svg") :]  # without the head of a file of its own


def _losses(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of losses that have a number somewhere, but for the mean of the whole training."""
    names = dict.fromkeys(
        name
        for line in history
        for name, value in line.items()
        if (name == "loss" or name.endswith("_loss")) and isinstance(value, (int, float))
    )
    return [name for name in names if name != "train_loss"]


def _table(history: Sequence[Mapping[str, Any]]) -> str:
    import pandas as pd

    table = pd.DataFrame(list(history))
    first = [name for name in _FIRST_COLUMNS if name in table]
    table = table[first + [name for name in table if name not in first]]
    return str(table.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.6g}"))
