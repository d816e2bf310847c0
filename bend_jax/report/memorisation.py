"""Copies or new networks: the section of a report with the tests of Zeng et al. (2025) and Meehan et al. (2020)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bend_jax.report import figures
from bend_jax.report.content import Novelty, Report
from bend_jax.report.document import Figure, Heading, Table, Text
from bend_jax.report.learning import Memorisation
from bend_jax.report.plotting import COLOURS, INK, PAPER, label, legend
from bend_jax.report.records import at
from bend_jax.report.text import number, percent

COLUMNS = {  # of the table: a measure, whether in percent, its form; the first five are also of the references
    "accuracy": ("accuracy %", True),
    "nearest": ("L2 to the nearest checkpoint", False),
    "max_iou": ("largest error IoU", False),
    "disagreement": ("labels other than the nearest's, %", True),
    "disagreement_p10": ("10th percentile", True),
    "copy_share": ("copies %", True),
    "spread": ("spread", False),
    "z_u": ("Z_U", False),
    "energy": ("energy distance", False),
    "energy_p": ("p", False),
}
WORDS = {
    "checkpoints": "the checkpoints, each against the others",
    "average16": "means of 16 checkpoints",
    "base": "the base again and again",
}
FAR = 3  # standard deviations of Z_U from which it is told
BINS = 15  # of the distances, as in the paper


def section(report: Report, arrays: dict[str, Any] | None) -> list[Heading | Text | Table | Figure]:
    """Its table with what each measure means, and the figures of one run's arrays."""
    found = report.memorisation
    if found is None:
        return []
    note = (
        "Zeng et al. (2025). L2: Euclidean distance of the vectors as they are. Labels other than the nearest's: share "
        "of test images that a network labels otherwise than its nearest checkpoint, mean and 10th percentile over "
        f"networks. Noise: on a checkpoint, of so many times the sd of each tensor's own numbers (p-diff)."
        f"{_held_out(found)} A dash: not defined, or not measured."
    )
    drawn = [] if arrays is None else _figures(report, arrays)
    table = Table(["networks", *(text for text, _ in COLUMNS.values())], _rows(report, found), note)
    return [
        Heading("Copies or new networks", folded=True),
        Text("\n".join(f"- {line}" for line in said(report))),
        table,
        *drawn,
    ]


def _held_out(found: Memorisation) -> str:
    if found.held_out is None:
        return ""
    return (
        " Z_U (Meehan et al. 2020), energy distance and p: of each generator fitted once more, to "
        f"{found.fitted_to:g} of the checkpoints, against the other {found.held_out:g}. Z_U: whether members are "
        "nearer to the checkpoints that the generator was fitted to (below 0) or farther (above 0) than held-out ones "
        "are, in standard deviations. Energy distance: 0 where members and held-out checkpoints have one distribution; "
        "p: how often it is as large where they do."
    )


def said(report: Report) -> list[str]:
    """What the numbers say of the main generator, beside what copying and doing nothing score."""
    found, main = report.memorisation, report.setup.generate
    if found is None:
        return []
    lines = [
        "A generator that copies has a distance and a disagreement of 0, an error IoU of 1 and a Z_U far below 0. One "
        "that gives the base alone has a spread of 0. Neither has learnt anything, whatever its accuracy."
    ]
    copies = ", ".join(
        f"{percent(own.copy_share)}% of {name}'s"
        for name, own in _novelty(report).items()
        if own.copy_share is not None
    )
    lines += [f"Members that lie three times nearer to one checkpoint than to the next: {copies}."] if copies else []
    z = found.copying[main].z_u
    if z is None:
        return [*lines, "No Z_U: no checkpoint was held out, or they are all the same."]
    others = ", ".join(
        f"{name} {own.z_u:+.1f}" for name, own in found.copying.items() if name != main and own.z_u is not None
    )
    beside = f"; beside it {others}" if others else ""
    meaning = "as far from the checkpoints that it was fitted to as unseen checkpoints are"
    if z < -FAR:
        meaning = (
            "nearer to those than unseen checkpoints are: they are copies, or crowd in the middle (spread below 1)"
        )
    if z > FAR:
        meaning = "farther from those than unseen checkpoints are: they lie where no checkpoint does"
    fitted = f"of {main} fitted to {found.fitted_to:g} checkpoints"
    lines.append(f"Z_U {fitted} is {z:+.1f}: its members are {meaning}{beside}.")
    return [*lines, *_distances(found, main)]


def _distances(found: Memorisation, main: str) -> list[str]:
    """Energy distances with their intervals: of the generator, and of the Gaussian that it has to be better than."""
    told = []
    for name in dict.fromkeys((main, "low_rank_gaussian")):
        own = found.copying.get(name)
        if own and own.energy is not None and own.energy_low is not None and own.energy_high is not None:
            told.append(f"{name} {own.energy:.3g} ({own.energy_low:.3g} to {own.energy_high:.3g})")
    return [f"Energy distance to the held-out checkpoints, with 95% intervals: {', '.join(told)}."] if told else []


def _novelty(report: Report) -> dict[str, Novelty]:
    """Of the main generator and its nulls."""
    nulls = {name: own.novelty for name, own in report.generators.items()}
    return {report.setup.generate: report.novelty, **nulls}


def _rows(report: Report, found: Memorisation) -> list[list[str]]:
    """Generators, then references."""
    rows = []
    for name in _novelty(report):
        rows.append([name, *_cells(*(_generator(one, name) for one in (report, report.sd)))])
    for name in found.references:
        words = WORDS.get(name) or f"checkpoints with {name}"
        parts = []
        for one in (report, report.sd):
            own = one.memorisation if one else None
            parts.append([own.references[name], *([own.copying[name]] if name in own.copying else [])] if own else [])
        rows.append([words, *_cells(*parts)])
    return rows


def _generator(report: Any, name: str) -> list[Any]:
    """Records that hold the measures of a generator; none for no report."""
    if report is None or report.memorisation is None:
        return []
    part = report.generators.get(name, report)
    return [{"accuracy": part.table.mean}, part.novelty, report.memorisation.copying[name]]


def _cells(parts: Sequence[Any], spreads: Sequence[Any]) -> list[str]:
    """A cell for each column, from the first record that has it; spreads: the same of the sd over seeds, or none."""
    cells = []
    for key, (_, in_percent) in COLUMNS.items():
        value, sd = _first(parts, key), _first(spreads, key)
        cells.append(percent(value, sd) if in_percent else number(value, sd, "+.2f" if key == "z_u" else ".3g"))
    return cells


def _first(records: Sequence[Any], key: str) -> float | None:
    for one in records:
        if key in one if isinstance(one, dict) else hasattr(one, key):
            return at(one, key)
    return None


def _figures(report: Report, arrays: dict[str, Any]) -> list[Figure]:
    """Of one run."""
    found = report.memorisation
    assert found is not None
    apart = "-" if found.boundaries is None else f"{percent(found.boundaries)}%"
    drawn = [
        Figure(
            "nearest_distances",
            "Distance to the nearest checkpoint",
            "Left of the checkpoints' own distances to each other lie members that are nearer to a checkpoint than "
            "checkpoints are; copies lie at 0.",
            partial(_draw_distances, figures.sets(report), arrays["distances"]),
        ),
        Figure(
            "heat",
            "Parameters side by side",
            f"Each column is a network, each row one of {len(arrays['heat']['rows'])} coordinates of its vector. The "
            "third part holds the nearest checkpoint of each member of the second: where the two look the same, "
            "members are copies; where the second is pale, they crowd in the middle.",
            partial(_draw_heat, arrays["heat"]),
        ),
        Figure(
            "boundaries",
            "Decision boundaries",
            f"Labels on the plane in which validation images vary most, a colour for each class: members above, the "
            f"nearest checkpoint of each below. They differ on {apart} of the plane.",
            partial(_draw_boundaries, arrays["boundaries"]),
        ),
    ]
    if "plane" in arrays:
        share = float(sum(arrays["plane"]["shares"]))
        sentence = (
            f"Accuracy of vectors on the plane in which the checkpoints vary most, with {share:.0%} of their variance; "
            "all points are projected onto it. Members on one spot have collapsed there; a plain of one shade has no "
            "better place to go to."
        )
        drawn.append(
            Figure("plane", "Accuracy around the checkpoints", sentence, partial(_draw_plane, arrays["plane"]))
        )
    return drawn


def _draw_distances(drawn: dict[str, tuple[str, str, str]], distances: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    top = max(float(np.max(x)) for x in distances.values()) or 1.0
    edges = np.linspace(0, top, BINS + 1)
    for i, (name, (text, colour, _)) in enumerate(drawn.items()):
        if name in distances:
            share = 100 * np.histogram(distances[name], edges)[0] / len(distances[name])
            look = {"color": colour, "linewidth": 1.8, "linestyle": ("-", "-", "--", ":", "-.")[i % 5]}
            axes.stairs(share, edges, label=text, **look)
    label(axes, "Euclidean distance to the nearest checkpoint, itself excluded", "networks, %")
    axes.set_xlim(0, top)
    axes.set_ylim(bottom=0)
    legend(figure, axes)


def _draw_heat(heat: dict[str, Any], figure: Any) -> None:
    figure.set_size_inches(5.4, 4.6)
    titles = {"checkpoints": "checkpoints", "members": "members", "nearest": "their nearest"}
    panels = figure.subplots(1, len(titles), sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        axes.imshow(heat[name], cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto", interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=False)
        axes.set_xticks([])
    rows = heat["rows"]
    ticks = np.unique(np.linspace(0, len(rows) - 1, 6).round().astype(int))
    panels[0].set_yticks(ticks, [str(int(rows[i])) for i in ticks])
    label(panels[0], "", "coordinate of the vector")
    bar = figure.colorbar(panels[0].images[0], ax=list(panels), shrink=0.8)
    bar.set_label("sd of the checkpoints, from their mean")


def _draw_boundaries(found: dict[str, Any], figure: Any) -> None:
    above, below = found["members"], found["checkpoints"]
    figure.set_size_inches(5.4, 4.0)
    panels = figure.subplots(2, len(above), squeeze=False)
    classes = np.unique(np.concatenate([above, below]))
    for row, (labels, name) in enumerate(((above, "member"), (below, "its nearest"))):
        for i, own in enumerate(labels):
            axes = panels[row, i]
            shown = np.searchsorted(classes, own)
            axes.imshow(shown, cmap="tab20", vmin=-0.5, vmax=19.5, origin="lower", interpolation="nearest")
            axes.set_title(f"{name} {i + 1}" if row == 0 else name, fontsize=10)
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
    label(panels[1, 0], "pixels' component 1", "component 2")


def _draw_plane(plane: dict[str, Any], figure: Any) -> None:
    figure.set_size_inches(5.4, 4.2)
    axes = figure.subplots()
    percents = 100 * np.asarray(plane["accuracy"], float)
    low, high = percents.min(), percents.max()
    middle, half = (low + high) / 2, max(high - low, 0.5) / 2
    (x, y), edge = plane["along"], 0.5
    steps = x[1] - x[0], y[1] - y[0]
    extent = [x[0] - edge * steps[0], x[-1] + edge * steps[0], y[0] - edge * steps[1], y[-1] + edge * steps[1]]
    look = {"origin": "lower", "extent": extent, "aspect": "auto", "interpolation": "nearest", "cmap": "Greys_r"}
    image = axes.imshow(percents, vmin=middle - half, vmax=middle + half, **look)
    figure.colorbar(image, ax=axes).set_label("validation accuracy, %")
    for name, colour, marker, size in (
        ("checkpoints", COLOURS[1], "s", 18),
        ("members", COLOURS[0], "o", 16),
        ("base", COLOURS[4], "*", 110),
    ):
        points = plane[f"at_{name}"]
        edges = {"edgecolors": PAPER if name != "base" else INK, "linewidths": 0.4}
        axes.scatter(points[:, 0], points[:, 1], label=name, color=colour, marker=marker, s=size, **edges)
    axes.grid(visible=False)
    axes.locator_params(axis="x", nbins=5)
    label(axes, *(f"component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(plane["shares"])))
    legend(figure, axes)
