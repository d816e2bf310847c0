"""Cells and figures that the papers' tables share: ours, published, the difference."""

import re
from functools import partial
from typing import Any

from bend_jax.report.content import Row
from bend_jax.report.document import Figure, Heading, Table, Text
from bend_jax.report.grid import cell
from bend_jax.report.plotting import COLOURS, MARKERS, legend, widen
from bend_jax.report.records import at, defined

Rows = list[Row]
Blocks = list[Heading | Text | Table | Figure]
Published = dict[Any, Any]  # one of published.py, accuracies in %
SBEND, MEAN, ORIGINAL = "table.sbend", "table.mean", "table.orig_mean"  # paths of a row's numbers


def beside(row: Row, path: str, published: float | None) -> list[str]:
    """Three cells: ours and published in percent, and ours minus published."""
    value = at(row, path)
    difference = "-" if value is None or published is None else f"{100 * value - published:+.2f}"
    return [cell(row, path), "-" if published is None else f"{published:.2f}", difference]


def points(row: Row, a: str, b: str) -> float:
    """a minus b in points, without the rounding of means."""
    return round(100 * (defined(row, a) - defined(row, b)), 9)


def signed(value: float) -> str:
    """With two digits; no minus in front of nothing."""
    return f"{round(value, 2) + 0.0:+.2f}"


def key_of(name: str, published: Published) -> str:
    """The published row that stands beside a row: its own, or the same network's on CIFAR-10."""
    return name if name in published else f"{name.split('_')[0]}_cifar10"


def dots(names: list[str], series: dict[str, list[float]], title: str, least: float, scale: str, figure: Any) -> None:
    """A line for each name, a mark for each series; least: of the axis' range; scale: "linear" or "log"."""
    axes = figure.subplots()
    axes.set_xscale(scale)
    for i, (label, values) in enumerate(series.items()):
        places = [y + 0.12 * (i - (len(series) - 1) / 2) for y in range(len(names))]
        axes.plot(values, places, linestyle="", marker=MARKERS[i], color=COLOURS[i], label=label)
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel(title)
    widen(axes, "x", least)
    legend(figure, axes)


def dotted(
    name: str,
    title: str,
    sentence: str,
    names: list[str],
    series: dict[str, list[float]],
    x: str = "points of test accuracy",
    least: float = 0.5,
    scale: str = "linear",
) -> Figure:
    """A figure of `dots`."""
    return Figure(name, title, sentence, partial(dots, names, series, x, least, scale))


def renamed(figure: Figure | None, row: Row) -> list[Figure]:
    """A run's figure as one of several in a document; none where the runs have no curves."""
    if figure is None:
        return []
    name = re.sub(r"\W+", "_", f"{figure.name}_{row.name}")
    return [figure._replace(name=name, title=f"{figure.title}: {row.name}")]
