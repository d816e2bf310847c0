"""BEND's Tables 3 to 5 and Figures 4 and 5, beside what the paper prints."""

from functools import partial
from typing import Any

from bend_jax.report import figures
from bend_jax.report.document import Figure, Heading, Table
from bend_jax.report.grid import Curve, cell, number, plot, spans_decades
from bend_jax.report.papers.cells import (
    MEAN,
    ORIGINAL,
    SBEND,
    Blocks,
    Published,
    Rows,
    beside,
    dots,
    dotted,
    key_of,
    points,
    renamed,
    signed,
)
from bend_jax.report.plotting import label, legend, widen
from bend_jax.report.tables import TABLE

SIZES = (1, 5, 10, 20, 50, 100, 200, 500)  # of ensembles, in the table of figure 5b


def table3(rows: Rows, published: Published) -> Blocks:
    """BEND's Table 3, with the Gaussian null below each row."""
    lines, gains = [], []
    series: dict[str, list[float]] = {"ours": [], "published": [], "a Gaussian instead": []}
    for row in rows:
        key = key_of(row["name"], published)
        theirs = dict(zip(TABLE, published[key], strict=True))
        cells = {name: beside(row, ("table", name), theirs[name]) for name in TABLE}
        for i, text in enumerate((f"{row['name']}, ours", f"{key}, published", "difference")):
            lines.append([text, *(own[i] for own in cells.values())])
        lines.append([f"{row['name']}, Gaussian", *(cell(row, ("generators", "gaussian", "table", n)) for n in TABLE)])
        own = points(row, SBEND, ORIGINAL)
        null = 100 * (number(row, ("generators", "gaussian", "table", "sbend")) - number(row, ORIGINAL))
        paper = theirs["sbend"] - theirs["orig_mean"]
        for kind, value in zip(series, (own, paper, null), strict=True):
            series[kind].append(value)
        base = points(row, SBEND, ("votes", "base", "accuracy"))
        members = (points(row, SBEND, MEAN), theirs["sbend"] - theirs["mean"])
        gains.append([row["name"], *map(signed, (own, paper, own - paper, null, *members, base))])
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
        Table(["test accuracy, %", *TABLE.values()], lines, "Gaussian: an independent Gaussian for every coordinate of "
              "the same checkpoints, in place of autoencoder and diffusion."),
        Heading("What the votes gain"),
        Table(header, gains, "Points of test accuracy over the mean checkpoint, the mean member, and the base."),
        dotted("gain", "sBEND over the mean checkpoint", sentence, [r["name"] for r in rows], series),
    ]  # fmt: skip


def table4(rows: Rows, published: Published) -> Blocks:
    """BEND's Table 4 and eq. 10 to 13, in seconds and in trainings of one network."""
    (row,) = rows
    cost, k, m = row["cost"], row["k"], row["m"]
    theirs = {
        "t_pre, one training": published["k_pre"] * published["t_orge"],
        "checkpoints": published["k"] * published["t_orge"],
        "autoencoder": published["t_ate"],
        "diffusion": published["t_ddpm"],
        "one member": published["t_sgen"],
    }
    ours = dict(zip(theirs, (cost[f"t_{n}"] for n in ("pre", "collect", "autoencoder", "diffusion")), strict=False))
    ours["one member"] = cost["t_sample"] / m
    pre, pre_published = ours["t_pre, one training"], theirs["t_pre, one training"]
    lines, series = [], {"ours": [], "published": []}
    for part, seconds in theirs.items():
        own, paper = None if ours[part] is None else ours[part] / pre, seconds / pre_published
        gap = "-" if own is None else f"{own - paper:+.4g}"
        figures_of_part = (ours[part], seconds, own, paper)
        lines.append([part, *("-" if v is None else f"{v:.4g}" for v in figures_of_part), gap])
        series["ours"].append(own or float("nan"))
        series["published"].append(paper)
    pays = (cost["break_even_m"], published["break_even"])
    more = [f"{value:.2f}" if value is not None else "never" for value in pays]
    gap = f"{pays[0] - pays[1]:+.2f}" if pays[0] is not None else "-"
    lines.append(["break-even m (eq. 13)", "-", "-", *more, gap])
    header = ["part", "seconds", "published, seconds", "in trainings", "published, in trainings", "difference"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        dots(axes, list(theirs), series, "trainings of one network", 0.0)

    sentence = (
        "Each part in units of one training of the whole network, so that machines do not matter. The published 200 "
        "checkpoints cost two trainings; here the frozen part of the network runs once for all of them."
    )
    return [
        Table(header, lines, f"k = {k} checkpoints (published {published['k']}), m = {m} members; seconds without "
              "compilation. Break-even: from so many members on BEND costs less than as many trainings; inference is "
              "not counted."),
        Figure("cost", "What the parts cost", sentence, draw),
    ]  # fmt: skip


def table5(rows: Rows, published: Published) -> Blocks:
    """BEND's Table 5: subsets by the role that they have in the network."""
    header = ["subset", "here", "numbers", "published", "numbers", "sBEND", "published", "difference"]
    header += ["aBEND", "published", "difference", "orig", "published", "difference"]
    lines, gains = [], []
    series: dict[str, list[float]] = {"ours": [], "published": []}
    for row in rows:
        subset, numbers, *theirs = published[row["name"]]
        own = [row["name"], row["setup"]["subset"], str(row["dim"]), subset, str(numbers)]
        for path, value in zip((SBEND, ("table", "abend"), ORIGINAL), theirs, strict=True):
            own += beside(row, path, value)
        lines.append(own)
        gain, paper = points(row, SBEND, ORIGINAL), theirs[0] - theirs[2]
        gains.append([row["name"], signed(gain), signed(paper), signed(gain - paper)])
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
        dotted("layers", "sBEND by subset", sentence, [r["name"] for r in rows], series),
    ]  # fmt: skip


def figure4(rows: Rows, published: Published) -> Blocks:
    """BEND's Fig. 4. The paper prints no numbers, only their order."""
    kinds = {"members": "members", "between": "cross", "checkpoints": "checkpoints"}
    lines = []
    series: dict[str, list[float]] = {kind: [] for kind in kinds}
    for row in rows:
        values = {kind: 100 * number(row, ("diversity", name)) for kind, name in kinds.items()}
        for kind, value in values.items():
            series[kind].append(value)
        order = " > ".join(sorted(values, key=lambda kind: -values[kind]))
        literal = [f"{number(row, ('diversity', n)):.4g}" for n in ("eq14_members", "eq14_checkpoints", "eq15")]
        disagree = [cell(row, ("diversity", name)) for name in kinds.values()]
        highest = "yes" if values["members"] > max(values["between"], values["checkpoints"]) else "no"
        lines.append([row["name"], *disagree, *literal, order, published["order"], highest])
    header = ["", *(f"{kind}, %" for kind in kinds), "eq. 14 members", "eq. 14 checkpoints", "eq. 15"]
    sentence = (
        "The share of test images that two networks label differently. The paper has the members furthest apart; what "
        "two checkpoints do not disagree about, members do not either."
    )
    return [
        Table([*header, "order", "published order", "members highest"], lines, "Mean over pairs; the equations as they "
              "are printed are sums over images, eq. 14 without the 1/m that eq. 15 has."),
        dotted("diversity", "Diversity", sentence, [r["name"] for r in rows], series, "disagreement, %", 0.02),
    ]  # fmt: skip


FOUR = ("mean", "median", "orig_mean", "orig_median")


def figure5a(rows: Rows, published: Published) -> Blocks:
    """BEND's Fig. 5a, and p-diff's table of k."""
    names = ("sbend", "abend", *FOUR)
    lines = []
    for row in rows:
        least = min(points(row, SBEND, ("table", n)) for n in FOUR)
        claim = "yes" if least >= 0 else f"no, {least:.2g}"
        lines.append([str(row["k"]), *(cell(row, ("table", n)) for n in names), claim, "yes"])
    generated, original = ("max", "mean", "median"), published["original"]
    other = []
    for row in rows:
        own = [points(row, ("table", n), ORIGINAL) for n in generated]
        theirs = published.get(row["k"])  # at this k, where p-diff has it
        for name, value in zip(generated, own, strict=True):
            paper = theirs[generated.index(name)] - original if theirs else None
            gap = [signed(paper), signed(value - paper)] if paper is not None else ["-", "-"]
            other.append([f"k = {row['k']}, {name}", signed(value), *gap])
    return [
        Table(["k", *(TABLE[n] for n in names), "sBEND at least mean and med of both", "published"], lines,
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
    k = [float(row["k"]) for row in rows]
    sd = [bool(row["sd"]) for row in rows]
    lines = []
    for name in names:
        bars = [100 * number(row["sd"], ("table", name)) for row in rows] if all(sd) else None
        lines.append(Curve(TABLE[name], k, [100 * number(row, ("table", name)) for row in rows], bars))
    plot(axes, lines)
    label(axes, "k, checkpoints", "test accuracy, %")
    widen(axes, "y", 0.5)
    if len(k) > 1 and spans_decades(k):
        axes.set_xscale("log")
    legend(figure, axes)


def over_seeds(row: dict[str, Any], name: str) -> list[float]:
    """The mean over seeds of a curve against m."""
    curves = [own["curves"]["by_members"][name] for own in row["runs"]]
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]


def figure5b(rows: Rows, published: Published) -> Blocks:
    """BEND's Fig. 5b: votes over the first m members of one array."""
    blocks: Blocks = []
    for row in rows:
        sizes = [int(m) for m in row["runs"][0]["curves"]["by_members"]["m"]]
        found = {name: over_seeds(row, name) for name in ("sbend", "mean", "single", "nll")}
        shown = [i for i, m in enumerate(sizes) if m in SIZES or i == len(sizes) - 1]
        lines = [
            [
                str(sizes[i]),
                *(f"{100 * found[n][i]:.2f}" for n in ("sbend", "mean", "single")),
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
            Heading(row["name"]),
            Table(["m", "sBEND, %", "mean vote, %", "mean member, %", "NLL of the mean vote"], lines),
            Table(["claim, points", "ours", "published (no numbers)"], claims),
            *renamed(figures.by_members(row["runs"]), row),
        ]
    return blocks
