"""Sort the series of runs into charts: which curves belong together, in which order, drawn from which points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from loopwright.report.numbers import throughput_of
from loopwright.report.sampling import choose_points
from loopwright.report.views import RunView, Series

# Said once a run, or of the machine, or of where the line stands: no curve of a training.
_NO_CURVES = frozenset({"epoch", "step", "total_flos", "train_loss", "train_runtime"})
_MAIN = {"learning_rate": "Learning rate", "grad_norm": "Gradient norm"}
_TITLES = {**_MAIN, "steps_per_second": "Throughput", "loss": "Loss"}
MAX_CHARTS = 60


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of one series of one run.

    Attributes:
        run: The run's place among those of the page.
        name: The series' name.
        steps: Of the points that are drawn.
        values: None where the value is NaN or infinite: a gap.
        marks: Step and spelling of values that are NaN or infinite, of those that are drawn.
        num_values: How many there are in all.
        num_nonfinite: How many of them are NaN or infinite.
        low: The lowest finite value and its step; None where there is none.
        high: The highest.
        last: The newest value, whatever it is.
    """

    run: int
    name: str
    steps: list[int]
    values: list[float | None]
    marks: list[tuple[int, str]]
    num_values: int
    num_nonfinite: int
    low: tuple[float, int] | None
    high: tuple[float, int] | None
    last: float

    @property
    def is_sampled(self) -> bool:
        """Whether not every value is drawn."""
        return len(self.values) < self.num_values


@dataclass(slots=True)
class Chart:
    """Curves that share a pair of axes.

    Attributes:
        title: What is shown.
        unit: Of the values; empty where they have none.
        is_main: Whether everybody wants to see it.
        curves: Run by run.
    """

    title: str
    unit: str = ""
    is_main: bool = True
    curves: list[Curve] = field(default_factory=list)


def build_charts(views: Sequence[RunView]) -> tuple[list[Chart], int]:
    """Return the charts of `views`, the most wanted first, and how many others there would be."""
    charts: dict[str, Chart] = {}
    for number, view in enumerate(views):
        for series in _series(view):
            chart = _chart_of(series.name)
            charts.setdefault(chart.title, chart).curves.append(draw(series, number))
    ordered = sorted(charts.values(), key=_rank)
    return ordered[:MAX_CHARTS], len(ordered) - len(ordered[:MAX_CHARTS])


def draw(series: Series, run: int) -> Curve:
    """Return what is drawn of `series`."""
    places = choose_points(series.values)
    finite = [(value, step) for value, step in zip(series.values, series.steps, strict=True) if math.isfinite(value)]
    chosen = [(series.steps[place], series.values[place]) for place in places]
    return Curve(
        run=run,
        name=series.name,
        steps=[step for step, _ in chosen],
        values=[value if math.isfinite(value) else None for _, value in chosen],
        marks=list(islice(((step, spell(value)) for step, value in chosen if not math.isfinite(value)), 500)),
        num_values=len(series),
        num_nonfinite=series.num_nonfinite,
        low=min(finite, default=None, key=_value),
        high=max(finite, default=None, key=_value),
        last=series.values[-1],
    )


def spell(value: float) -> str:
    """Return NaN or an infinity in words that people know."""
    return "NaN" if math.isnan(value) else "+infinity" if value > 0 else "-infinity"


def _value(pair: tuple[float, int]) -> float:
    return pair[0]


def _series(view: RunView) -> Iterable[Series]:
    for name, series in view.series.items():
        if name not in _NO_CURVES and not name.startswith("train_") and len(series) > 1:
            yield series
    if "loss" in view.series and len(rates := throughput_of(view.series["loss"])) > 1:
        yield rates


def _chart_of(name: str) -> Chart:
    if name == "loss" or (name.startswith("eval_") and name.endswith("loss")):
        return Chart(_TITLES["loss"])
    if name == "steps_per_second":
        return Chart(_TITLES[name], "steps per second")
    if name in _MAIN:
        return Chart(_MAIN[name])
    is_metric = name.startswith("eval_") and not name.endswith(("_runtime", "_per_second", "_time", "_seconds"))
    return Chart(name, is_main=is_metric)


def _rank(chart: Chart) -> tuple[int, str]:
    order = [_TITLES["loss"], None, _MAIN["learning_rate"], _MAIN["grad_norm"], _TITLES["steps_per_second"]]
    if not chart.is_main:
        return len(order), chart.title
    return order.index(chart.title) if chart.title in order else 1, chart.title
