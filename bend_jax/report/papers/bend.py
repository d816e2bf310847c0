"""BEND's Tables 3 to 5 and Figures 4 and 5, beside what the paper prints."""

from functools import partial
from typing import Any, NamedTuple

from bend_jax.report import figures
from bend_jax.report.content import Row
from bend_jax.report.document import Figure, Heading, Table
from bend_jax.report.grid import Curve, cell, plot, spans_decades
from bend_jax.report.papers.cells import (
    MEAN,
    ORIGINAL,
    SBEND,
    Blocks,
    Published,
    Rows,
    beside,
    dotted,
    key_of,
    points,
    renamed,
    signed,
)
from bend_jax.report.plotting import label, legend, widen
from bend_jax.report.records import at, defined
from bend_jax.report.text import number, percent
from bend_jax.report.words import TABLE3

SIZES = (1, 5, 10, 20, 50, 100, 200, 500)  # of ensembles, in the table of figure 5b


def table3(rows: Rows, published: Published) -> Blocks:
    """BEND's Table 3, with the Gaussian null below each row."""
    lines, gains = [], []
    series: dict[str, list[float]] = {"ours": [], "published": [], "a Gaussian instead": []}
    for row in rows:
        key = key_of(row.name, published)
        theirs = dict(zip(TABLE3, published[key], strict=True))
        cells = {name: beside(row, f"table.{name}", theirs[name]) for name in TABLE3}
        for i, text in enumerate((f"{row.name}, ours", f"{key}, published", "difference")):
            lines.append([text, *(own[i] for own in cells.values())])
        lines.append([f"{row.name}, Gaussian", *(cell(row, f"generators.gaussian.table.{n}") for n in TABLE3)])
        own = points(row, SBEND, ORIGINAL)
        null = 100 * (defined(row, "generators.gaussian.table.sbend") - defined(row, ORIGINAL))
        paper = theirs["sbend"] - theirs["orig_mean"]
        for kind, value in zip(series, (own, paper, null), strict=True):
            series[kind].append(value)
        base = points(row, SBEND, "votes.base.accuracy")
        members = (points(row, SBEND, MEAN), theirs["sbend"] - theirs["mean"])
        gains.append([row.name, *map(signed, (own, paper, own - paper, null, *members, base))])
    header = [
        "",
        "sBEND - checkpoints",
        "published",
        "difference",
        "Gaussian's",
        "sBEND - members",
        "published",
        "- base",
    ]
    sentence = (
        "How many points sBEND has more than the mean checkpoint. Right of 0 the vote gained; where `a Gaussian "
        "instead` lies on `ours`, the diffusion added nothing."
    )
    return [
        Table(["test accuracy, %", *TABLE3.values()], lines, "Gaussian: an independent Gaussian for every coordinate "
              "of the same checkpoints, in place of autoencoder and diffusion."),
        Heading("What the votes gain"),
        Table(header, gains, "Points of test accuracy over the mean checkpoint, the mean member, and the base."),
        dotted("gain", "sBEND over the mean checkpoint", sentence, [r.name for r in rows], series),
    ]  # fmt: skip


class Part(NamedTuple):
    """One part of the cost in seconds, ours (None where there was none) and published."""

    name: str
    ours: float | None
    published: float


def cost_parts(row: Row, published: Published) -> list[Part]:
    """One training of the whole network first, then what BEND takes."""
    cost, epoch = row.cost, published["t_orge"]
    return [
        Part("t_pre, one training", cost.t_pre, published["k_pre"] * epoch),
        Part("checkpoints", cost.t_collect, published["k"] * epoch),
        Part("autoencoder", cost.t_autoencoder, published["t_ate"]),
        Part("diffusion", cost.t_diffusion, published["t_ddpm"]),
        Part("one member", defined(cost, "t_sample") / row.m, published["t_sgen"]),
    ]


def in_trainings(parts: list[Part]) -> list[Part]:
    """The same in units of the first part: one training."""
    pre, paper = parts[0].ours, parts[0].published
    return [Part(name, own / pre if own is not None and pre else None, theirs / paper) for name, own, theirs in parts]


def table4(rows: Rows, published: Published) -> Blocks:
    """BEND's Table 4 and eq. 10 to 13, in seconds and in trainings of one network."""
    (row,) = rows
    seconds = cost_parts(row, published)
    trainings = in_trainings(seconds)
    lines = []
    for (name, own, paper), (_, share, paper_share) in zip(seconds, trainings, strict=True):
        gap = None if share is None else share - paper_share
        values = (number(value, form=".4g") for value in (own, paper, share, paper_share))
        lines.append([name, *values, number(gap, form="+.4g")])
    m, paper = row.cost.break_even_m, published["break_even"]
    gap = None if m is None else m - paper
    pays = "never" if m is None else f"{m:.2f}"
    lines.append(["break-even m (eq. 13)", "-", "-", pays, f"{paper:.2f}", number(gap, form="+.2f")])
    header = ["part", "seconds", "published, seconds", "in trainings", "published, in trainings", "difference"]
    note = (
        f"k = {row.k} checkpoints (published {published['k']}), m = {row.m} members; seconds without compilation. "
        "Break-even: from so many members on BEND costs less than as many trainings; inference is not counted."
    )
    sentence = (
        "Each part in units of one training of the whole network, so that machines do not matter. The published 200 "
        "checkpoints cost two trainings; here the frozen part of the network runs once for all of them."
    )
    nan = float("nan")
    series = {"ours": [part.ours or nan for part in trainings], "published": [part.published for part in trainings]}
    names, title = [part.name for part in seconds], "What the parts cost"
    return [
        Table(header, lines, note),
        dotted("cost", title, sentence, names, series, "trainings of one network", 0.0, "log"),
    ]


def table5(rows: Rows, published: Published) -> Blocks:
    """BEND's Table 5: subsets by the role that they have in the network."""
    header = ["subset", "here", "numbers", "published", "numbers", "sBEND", "published", "difference"]
    header += ["aBEND", "published", "difference", "orig", "published", "difference"]
    lines, gains = [], []
    series: dict[str, list[float]] = {"ours": [], "published": []}
    for row in rows:
        subset, numbers, *theirs = published[row.name]
        own = [row.name, row.setup.subset, str(row.dim), subset, str(numbers)]
        for path, value in zip((SBEND, "table.abend", ORIGINAL), theirs, strict=True):
            own += beside(row, path, value)
        lines.append(own)
        gain, paper = points(row, SBEND, ORIGINAL), theirs[0] - theirs[2]
        gains.append([row.name, signed(gain), signed(paper), signed(gain - paper)])
        series["ours"].append(gain)
        series["published"].append(paper)
    sentence = (
        "sBEND minus the mean checkpoint, in points. In the paper a whole late convolution loses ten points; a subset "
        "left of 0 was generated worse than it was collected."
    )
    return [
        Table(header, lines, "Test accuracy in %; orig: the mean of the checkpoints. A small network has other names "
              "for the layers of the same role."),
        Heading("What generating cost"),
        Table(["subset", "sBEND - orig", "published", "difference"], gains, "Points of test accuracy."),
        dotted("layers", "sBEND by subset", sentence, [r.name for r in rows], series),
    ]  # fmt: skip


def figure4(rows: Rows, published: Published) -> Blocks:
    """BEND's Fig. 4. The paper prints no numbers, only their order."""
    kinds = {"members": "members", "between": "cross", "checkpoints": "checkpoints"}
    lines = []
    series: dict[str, list[float]] = {kind: [] for kind in kinds}
    for row in rows:
        values = {kind: 100 * defined(row, f"diversity.{name}") for kind, name in kinds.items()}
        for kind, value in values.items():
            series[kind].append(value)
        order = " > ".join(sorted(values, key=lambda kind: -values[kind]))
        literal = [number(at(row, f"diversity.{n}"), form=".4g") for n in ("eq14_members", "eq14_checkpoints", "eq15")]
        disagree = [cell(row, f"diversity.{name}") for name in kinds.values()]
        highest = "yes" if values["members"] > max(values["between"], values["checkpoints"]) else "no"
        lines.append([row.name, *disagree, *literal, order, published["order"], highest])
    header = ["", *(f"{kind}, %" for kind in kinds), "eq. 14 members", "eq. 14 checkpoints", "eq. 15"]
    sentence = (
        "The share of test images that two networks label differently. The paper has the members furthest apart; what "
        "two checkpoints do not disagree about, members do not either."
    )
    return [
        Table([*header, "order", "published order", "members highest"], lines, "Mean over pairs; the equations as they "
              "are printed are sums over images, eq. 14 without the 1/m that eq. 15 has."),
        dotted("diversity", "Diversity", sentence, [r.name for r in rows], series, "disagreement, %", 0.02),
    ]  # fmt: skip


FOUR = ("mean", "median", "orig_mean", "orig_median")


def figure5a(rows: Rows, published: Published) -> Blocks:
    """BEND's Fig. 5a, and p-diff's table of k."""
    names = ("sbend", "abend", *FOUR)
    lines = []
    for row in rows:
        least = min(points(row, SBEND, f"table.{n}") for n in FOUR)
        claim = "yes" if least >= 0 else f"no, {least:.2g}"
        lines.append([str(row.k), *(cell(row, f"table.{n}") for n in names), claim, "yes"])
    generated, original = ("max", "mean", "median"), published["original"]
    other = []
    for row in rows:
        own = [points(row, f"table.{n}", ORIGINAL) for n in generated]
        theirs = published.get(row.k)  # at this k, where p-diff has it
        for name, value in zip(generated, own, strict=True):
            paper = theirs[generated.index(name)] - original if theirs else None
            gap = [signed(paper), signed(value - paper)] if paper is not None else ["-", "-"]
            other.append([f"k = {row.k}, {name}", signed(value), *gap])
    return [
        Table(["k", *(TABLE3[n] for n in names), "sBEND at least mean and med of both", "published"], lines,
              "Test accuracy in %. The figure is published without numbers; its text says yes for every k."),
        Figure("k", "Accuracy against k", "Level lines: more checkpoints change nothing, as the paper says; sBEND has "
               "to be on or above the others.", partial(against_k, rows, names)),
        Heading("Generated networks, one by one, against the original"),
        Table(["generated - original", "ours", "published (p-diff)", "difference"], other, "Points; p-diff: ResNet-18 "
              f"on CIFAR-100, whose original has {original:.1f}%; ours against the mean checkpoint."),
    ]  # fmt: skip


def against_k(rows: Rows, names: tuple[str, ...], figure: Any) -> None:
    """Lines of Table 3's columns."""
    axes = figure.subplots()
    k = [float(row.k) for row in rows]
    lines = []
    for name in names:
        bars = [100 * defined(row.sd, f"table.{name}") for row in rows if row.sd]
        lines.append(Curve(TABLE3[name], k, [100 * defined(row, f"table.{name}") for row in rows], bars or None))
    plot(axes, lines)
    label(axes, "k, checkpoints", "test accuracy, %")
    widen(axes, "y", 0.5)
    if len(k) > 1 and spans_decades(k):
        axes.set_xscale("log")
    legend(figure, axes)


def over_seeds(row: Row, name: str) -> list[float]:
    """The mean over seeds of a curve against m."""
    curves = [getattr(run.curves.by_members, name) for run in row.runs if run.curves]
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]


def figure5b(rows: Rows, published: Published) -> Blocks:
    """BEND's Fig. 5b: votes over the first m members of one array."""
    blocks: Blocks = []
    for row in rows:
        sizes = [int(m) for m in over_seeds(row, "m")]
        found = {name: over_seeds(row, name) for name in ("sbend", "mean", "single", "nll")}
        shown = [i for i, m in enumerate(sizes) if m in SIZES or i == len(sizes) - 1]
        lines = [
            [
                str(sizes[i]),
                *(percent(found[n][i]) for n in ("sbend", "mean", "single")),
                f"{found['nll'][i]:.4f}",
            ]
            for i in shown
        ]
        five = sizes.index(5) if 5 in sizes else 0
        rise = 100 * (found["sbend"][-1] - found["sbend"][five])
        above = min(100 * (a - b) for a, b in zip(found["sbend"][five:], found["single"][five:], strict=True))
        claims = [
            [f"sBEND from m = {sizes[five]} to {sizes[-1]}", signed(rise), published["rise"]],
            ["sBEND - mean member, at its least", signed(above), published["above"]],
        ]
        blocks += [
            Heading(row.name),
            Table(
                ["m", "sBEND, %", "mean of probabilities, %", "mean member, %", "NLL of the mean of probabilities"],
                lines,
            ),
            Table(["claim, points", "ours", "published (no numbers)"], claims),
            *renamed(figures.by_members(row.runs), row),
        ]
    return blocks
