"""One matplotlib figure to PNG and SVG, the same bytes every time; matplotlib is an extra, imported only here."""

import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bend_jax.checks import SettingsError

INK, PAPER, GRID = "#1b1f24", "#ffffff", "#d0d7de"  # text and axes, background, grid lines
# Okabe and Ito's colours, told apart by the colour-blind, without their black (that is the ink) and yellow (too pale)
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")
FEW = 12  # points of a curve that are marked one by one
DPI = 144  # of the PNG
SIZE = (5.4, 3.5)  # inches; narrow, so that its letters can still be read on a phone
STYLE: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # letters stay letters: small files, and a reader's own font
}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(work: Callable[[Any], None], name: str, folder: Path) -> str:
    """Write <name>.png and <name>.svg into the folder, and return the SVG as it goes into a page (`inlined`).

    work(figure) draws on an empty matplotlib figure of SIZE, which it may resize.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # lines on its cache and on a matplotlibrc
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ValueError as error:  # in MPLBACKEND or matplotlibrc
        raise SettingsError(f"matplotlib cannot be imported: {error}") from None

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a matplotlibrc says
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})  # pyright: ignore[reportArgumentType, reportCallIssue]
        figure = Figure(figsize=SIZE, layout="constrained")  # no pyplot: no window, no state shared with a user's plots
        work(figure)
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.execute(figure)
        figure.set_layout_engine("none")  # laid out once, for both files; `savefig` would draw each of them twice
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(folder / f"{name}.svg", metadata=nothing)
        figure.set_dpi(DPI)
        FigureCanvasAgg(figure).print_png(folder / f"{name}.png", metadata={"Software": None})
    return inlined((folder / f"{name}.svg").read_text(encoding="utf-8"), name)


def inlined(svg: str, name: str) -> str:
    """The <svg> element alone: ids of its own, as wide as its place, and the page's colours for ink, paper and grid."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:width|height|version|xmlns(?::\w+)?)="[^"]*"', "", head)
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r"url\(#", f"url(#{name}-", rest).replace('xlink:href="#', f'href="#{name}-')
    for colour, variable in ((INK, "ink"), (PAPER, "paper"), (GRID, "grid"), (COLOURS[0], "blue")):
        rest = rest.replace(colour, f"var(--{variable})")
    rest = re.sub(r"font-family: [^;\"]*;? ?", "", rest)
    return f"{head}>{rest}".strip()


class Line(NamedTuple):
    """One curve. Curves of one label (the same thing with several seeds) share their place in the legend."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]  # None: no point there
    colour: str
    dash: str = "-"
    marker: str = ""


def lines(axes: Any, curves: list[Line], x: str, y: str) -> None:
    """Draw curves, with the axes' labels (with their units); fainter where several share a label."""
    for i, curve in enumerate(curves):
        repeated = sum(other.label == curve.label for other in curves) > 1
        first = all(other.label != curve.label for other in curves[:i])
        axes.plot(
            curve.x,
            [float("nan") if value is None else value for value in curve.y],
            color=curve.colour,
            linestyle=curve.dash,
            marker=curve.marker or ("." if len(curve.x) <= FEW else ""),
            label=curve.label if first else None,
            alpha=0.65 if repeated else 1.0,
        )
    label(axes, x, y)


def label(axes: Any, x: str, y: str) -> None:
    """The axes' labels, and numbers that can be read without adding an offset."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for axis in (axes.xaxis, axes.yaxis):
        if hasattr(axis.get_major_formatter(), "set_useOffset"):
            axis.get_major_formatter().set_useOffset(False)


def widen(axes: Any, axis: str, least: float) -> None:
    """At least so wide a range, so that next to no difference looks like next to none."""
    low, high = getattr(axes, f"get_{axis}lim")()
    if high - low < least:
        middle = (low + high) / 2
        getattr(axes, f"set_{axis}lim")(middle - least / 2, middle + least / 2)


def legend(figure: Any, axes: Any) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(len(labels), 3 if max(map(len, labels)) < 24 else 2)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
