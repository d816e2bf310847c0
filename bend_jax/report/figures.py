"""The figures of a run's report, over one seed or several, each with the sentence that says what to see.

runs: the reports of single seeds; a figure whose numbers they do not hold is None.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bend_jax.report import tables, words
from bend_jax.report.content import Curves, Report, Row
from bend_jax.report.document import Figure
from bend_jax.report.given import Evaluation
from bend_jax.report.plotting import COLOURS, DASHES, GRID, INK, MARKERS, Line, label, legend, lines, widen
from bend_jax.report.records import at, defined
from bend_jax.report.text import percent

Runs = list[Report]
Measured = Sequence[Report | Evaluation]
BLUE, ORANGE, GREEN, PINK, RED, SKY = COLOURS
VOTES = {  # what is drawn of a vote
    "base": (words.VOTES["base"], INK, "-", "o"),
    "mean": (words.VOTES["mean"], GREEN, "--", "s"),
    "sbend": (words.VOTES["sbend"], RED, "-.", "^"),
}


def sets(run: Report) -> dict[str, tuple[str, str, str]]:
    """(label, colour, marker) of each set of nets: checkpoints, main generator, nulls."""
    main, others = run.setup.generate, (GREEN, PINK, RED, SKY)
    found = {"checkpoints": ("checkpoints", ORANGE, "s"), main: (f"members of {main}", BLUE, "o")}
    for i, name in enumerate(run.generators):
        found[name] = (f"members of {name}", others[i % len(others)], MARKERS[2 + i % 4])
    return found


def _curves(runs: Measured) -> list[Curves]:
    """Those of every run; none where a run, from the store of an earlier version, has none."""
    found = [run.curves for run in runs if run.curves]
    return found if len(found) == len(runs) else []


def accuracies(runs: Runs) -> Figure | None:
    """Every member's and checkpoint's accuracy, with the votes as lines; over several seeds less the base's."""
    curves = _curves(runs)
    if not curves:
        return None
    main = runs[0].setup.generate
    better = []
    for run, own in zip(runs, curves, strict=True):
        found = np.array(own.members[main].accuracy)
        better.append(f"{int((found > run.votes['base'].accuracy).sum())} of {len(found)}")
    sentence = (
        f"Each dot is one net, the lines are votes: dots right of the base's line beat it ({' / '.join(better)} of "
        f"the members of {main}); a vote right of its own dots gains by voting."
    )
    return Figure("accuracies", "Accuracy of every net", sentence, partial(_draw_accuracies, runs, curves))


def _draw_accuracies(runs: Runs, curves: list[Curves], figure: Any) -> None:
    axes, drawn, spread, several = figure.subplots(), sets(runs[0]), np.random.default_rng(0), len(runs) > 1
    for run, own in zip(runs, curves, strict=True):
        zero = run.votes["base"].accuracy if several else 0.0
        for i, (name, (_, colour, _)) in enumerate(drawn.items()):
            x = 100 * (np.array(own.members[name].accuracy) - zero)
            axes.scatter(x, i + spread.uniform(-0.28, 0.28, len(x)), s=9, color=colour, alpha=0.6, linewidths=0)
        chosen = {run.vote: (words.VOTES[run.vote], SKY, ":", "")} if run.vote else {}
        for vote, (name, colour, dash, _) in {**chosen, **VOTES}.items():
            value = 100 * (run.votes[vote].accuracy - zero)
            text = name if several else f"{name} {value:.2f} %"
            axes.axvline(value, color=colour, linestyle=dash, label=text if run is runs[0] else None)
    axes.set_yticks(range(len(drawn)), list(drawn))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    label(axes, "test accuracy less the base's of the seed, points" if several else "test accuracy, %", "")
    widen(axes, "x", 0.5)
    legend(figure, axes)


def by_members(runs: Measured) -> Figure | None:
    """BEND's Fig. 5b: accuracy and NLL of votes over the first m members."""
    curves = _curves(runs)
    if not curves:
        return None
    sentence = (
        "Votes over the first m members (BEND's Fig. 5b; one member: their mean accuracy): where the curves are flat, "
        "more members add nothing; below the base's line in the lower panel is a better likelihood. This NLL is of the "
        "mean and before temperature scaling; the first table's is of the ensemble and after it."
    )
    draw = partial(_draw_by_members, runs, curves)
    return Figure("by_members", "Accuracy and NLL against the number of members", sentence, draw)


def _draw_by_members(runs: Measured, curves: list[Curves], figure: Any) -> None:
    figure.set_size_inches(5.4, 5.2)
    above, below = figure.subplots(2, 1, sharex=True)
    over, under = [], []
    for run, own in zip(runs, curves, strict=True):
        found, base = own.by_members, run.votes["base"]
        ends = [found.m[0], found.m[-1]]
        over.append(Line("base", ends, [100 * base.accuracy] * 2, INK))
        over.append(Line(VOTES["sbend"][0], found.m, _percent(found.sbend), *VOTES["sbend"][1:3]))
        over.append(Line(VOTES["mean"][0], found.m, _percent(found.mean), *VOTES["mean"][1:3]))
        over.append(Line("one member", found.m, _percent(found.single), BLUE, ":"))
        under.append(Line("base", ends, [base.nll] * 2, INK))
        under.append(Line(VOTES["mean"][0], found.m, found.nll, *VOTES["mean"][1:3]))
    lines(above, over, "", "test accuracy, %")
    lines(below, under, "members m", "test NLL, nats, unscaled")
    widen(above, "y", 0.5)
    widen(below, "y", 0.01)
    below.set_xscale("log")
    below.xaxis.set_major_formatter("{x:g}")
    below.xaxis.set_minor_formatter("{x:g}" if curves[0].by_members.m[-1] < 10 else "")
    legend(figure, above)


def _percent(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


PAIRS = (  # what two nets of a pair are, its colour; the keys of its disagreement and of its error IoU
    ("checkpoints", ORANGE, "checkpoints", "iou_checkpoints"),
    ("members", BLUE, "members", "iou_members"),
    ("member to\ncheckpoint", GREEN, "cross", "iou_cross"),
)


def diversity(runs: Runs) -> Figure:
    """BEND's Fig. 4: how often two nets disagree, and how much their errors are the same."""
    own = " / ".join(_of_images(run.diversity.members) for run in runs)
    other = " / ".join(_of_images(run.diversity.checkpoints) for run in runs)
    sentence = (
        f"Two members disagree on {own} of the test images, two checkpoints on {other} (BEND's Fig. 4): nets that "
        "hardly disagree cannot gain by voting." + (" Dots are seeds." if len(runs) > 1 else "")
    )
    return Figure("diversity", "Diversity", sentence, partial(_draw_diversity, runs))


def _of_images(share: float | None) -> str:
    return "-" if share is None else f"{percent(share)} %"


def _draw_diversity(runs: Runs, figure: Any) -> None:
    figure.set_size_inches(5.4, 4.0)
    above, below = figure.subplots(2, 1)
    for i, (_, colour, disagreement, iou) in enumerate(PAIRS):
        for axes, key, factor in ((above, disagreement, 100), (below, iou, 1)):
            values = [at(run.diversity, key) for run in runs]
            found = [factor * value for value in values if value is not None]
            axes.barh(i, sum(found) / len(found) if found else 0.0, color=colour, height=0.6)
            if len(runs) > 1:
                axes.scatter(found, [i] * len(found), color=INK, s=12, zorder=3)
    for axes, text in (
        (above, "pairs' disagreement, % of test images"),
        (below, "largest error IoU (1: the same errors)"),
    ):
        axes.set_yticks(range(3), [name for name, *_ in PAIRS])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        label(axes, text, "")


def reliability(runs: Measured) -> Figure | None:
    """Accuracy against confidence, before and after temperature scaling."""
    curves = _curves(runs)
    if not curves:
        return None
    sentence = (
        "On the grey diagonal the stated confidence is the share that is right; below it a vote is too sure of itself. "
        "Right: after one temperature, fitted on validation images."
    )
    return Figure("reliability", "Reliability", sentence, partial(_draw_reliability, curves))


def _draw_reliability(curves: list[Curves], figure: Any) -> None:
    figure.set_size_inches(5.4, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    before, after = [], []
    for own in curves:
        for vote, (name, colour, dash, marker) in VOTES.items():
            for found, bins in ((before, own.reliability[vote].before), (after, own.reliability[vote].after)):
                both = zip(_percent(bins.confidence), _percent(bins.accuracy), strict=True)
                known = [(c, a) for c, a in both if c is not None]
                found.append(Line(name, [c for c, _ in known], [a for _, a in known], colour, dash, marker))
    for axes, found, title in ((left, before, "as they are"), (right, after, "temperature-scaled")):
        axes.plot([0, 100], [0, 100], color=GRID, linewidth=1.2)
        lines(axes, found, "confidence, %", "accuracy, %" if axes is left else "")
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
    legend(figure, left)


def risk_coverage(runs: Measured) -> Figure | None:
    """The error among the images that a vote is surest of."""
    curves = _curves(runs)
    if not curves:
        return None
    sentence = "Answering only the images it is surest of, a vote errs less; the lower curve ranks its errors better."
    return Figure("risk_coverage", "Risk and coverage", sentence, partial(_draw_risk_coverage, curves))


def _draw_risk_coverage(curves: list[Curves], figure: Any) -> None:
    axes, found = figure.subplots(), []
    for own in curves:
        for vote, (name, colour, dash, _) in VOTES.items():
            curve = own.risk_coverage[vote]
            found.append(Line(name, [100 * c for c in curve.coverage], _percent(curve.risk), colour, dash))
    lines(axes, found, "coverage: share of images answered, surest first, %", "error among them, %")
    axes.set_ylim(bottom=0)
    legend(figure, axes)


def novelty(runs: Runs) -> Figure | None:
    """p-diff's scatter: accuracy against the largest error IoU with a checkpoint."""
    curves = _curves(runs)
    if not curves:
        return None
    sentence = (
        "p-diff's scatter: a member at the far right makes the errors of one checkpoint; new and good would be far "
        "left and high up. Checkpoints are held against the other checkpoints. A member on the line of noised "
        "checkpoints, or beside the star, is no better than these."
    )
    draw = partial(_draw_novelty, runs, curves)
    return Figure("novelty", "Accuracy against likeness to a checkpoint", sentence, draw)


def _draw_novelty(runs: Runs, curves: list[Curves], figure: Any) -> None:
    axes = figure.subplots()
    for run, every in zip(runs, curves, strict=True):
        for name, (text, colour, marker) in sets(run).items():
            own = every.members[name]
            points = {"s": 18, "color": colour, "marker": marker, "alpha": 0.6, "linewidths": 0}
            known = [(x, 100 * y) for x, y in zip(own.max_iou, own.accuracy, strict=True) if x is not None]
            x, y = [a for a, _ in known], [b for _, b in known]
            axes.scatter(x, y, label=text if run is runs[0] else None, **points)
    label(axes, "largest error IoU with a checkpoint (1: the same errors)", "test accuracy, %")
    widen(axes, "y", 0.5)
    widen(axes, "x", 0.02)
    axes.set_xlim(right=min(axes.get_xlim()[1], 1.004))
    _draw_references(runs, axes)
    legend(figure, axes)


def _draw_references(runs: Runs, axes: Any) -> None:
    """Means of networks that nothing has learnt; where they lie far off, the picture does not reach them."""
    axes.autoscale(enable=False)
    for run in runs:
        found = run.memorisation.references if run.memorisation else {}
        noises = [own for name, own in found.items() if name.startswith("noise ")]
        means = [found[name] for name in ("average16",) if name in found]
        for own, text, look in (
            (noises, "checkpoints with more and more noise", {"linestyle": ":", "marker": "x"}),
            (means, "means of 16 checkpoints", {"linestyle": "", "marker": "*", "markersize": 11}),
        ):
            if own:
                x, y = [one.max_iou for one in own], [100 * one.accuracy for one in own]
                axes.plot(x, y, color=INK, label=text if run is runs[0] else None, **look)


def trainings(runs: Runs) -> Figure | None:
    """The loss of every training against its steps, a panel for each kind."""
    if not any(run.training for run in runs):
        return None
    sentence = "A curve that still falls at its end would gain by more steps; a held-out one that rises overfits."
    return Figure("training", "Losses of the trainings", sentence, partial(_draw_trainings, runs))


def _draw_trainings(runs: Runs, figure: Any) -> None:
    by_kind: dict[str, list[Line]] = {}
    for run in runs:
        for name, own in (run.training or {}).items():
            found = by_kind.setdefault(name.split()[0], [])
            found.append(Line("training", own.step, own.loss, BLUE, DASHES[0]))
            if own.held_out_loss:
                found.append(Line("held out", own.step, own.held_out_loss, ORANGE, DASHES[1]))
    figure.set_size_inches(5.4, 0.6 + 1.7 * len(by_kind))
    for i, (kind, found) in enumerate(by_kind.items()):
        axes = figure.add_subplot(len(by_kind), 1, i + 1)
        lines(axes, found, "step" if i == len(by_kind) - 1 else "", "loss")
        values = [v for line in found for v in line.y if v is not None]
        if values and min(values) > 0 and max(values) > 3 * min(values):
            axes.set_yscale("log")
        axes.set_title(kind, fontsize=10, loc="left")
        if any(line.label == "held out" for line in found) and not figure.legends:
            legend(figure, axes)


def seconds(runs: Runs) -> Figure:
    """Where the time went."""
    found = [{text: value for text, value, _ in tables.costs(run)} for run in runs]
    means = {}
    for text in found[0]:
        known = [value for value in (own.get(text) for own in found) if value is not None]
        means |= {text: sum(known) / len(known)} if known else {}
    whole = means.pop("sum")
    most = max(means, key=lambda text: means[text])
    over_seeds = " (mean over seeds)" if len(runs) > 1 else ""
    sentence = f"Most of the {whole:.3g} s{over_seeds}: {most}."
    return Figure("seconds", "Where the time went", sentence, partial(_draw_seconds, means))


def _draw_seconds(means: dict[str, float], figure: Any) -> None:
    axes = figure.subplots()
    colours = [SKY if text == words.PARTS["compile"] else BLUE for text in means]
    bars = axes.barh(list(means), list(means.values()), color=colours, height=0.65)
    axes.bar_label(bars, labels=[f"{value:.3g} s" for value in means.values()], padding=3, fontsize=9)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    label(axes, "seconds", "")


def against_cost(rows: list[Row]) -> list[Figure]:
    """Of a comparison's rows: accuracy and scaled NLL against what they cost to train, points as large as a vote."""
    sentence = (
        "Up is better, left is cheaper. Red rows with a name: no row of at most their training is better; black: the "
        "first row. Larger points cost more forward passes for an image."
    )
    axis = ("test accuracy, %", "test NLL after temperature scaling, nats")
    draws = (partial(_draw_cost, rows, "accuracy", 100, axis[0]), partial(_draw_cost, rows, "nll_ts", -1, axis[1]))
    return [
        Figure("cost_accuracy", "Accuracy against training", sentence, draws[0]),
        Figure("cost_nll_ts", "Likelihood against training", sentence, draws[1]),
    ]


def _draw_cost(rows: list[Row], key: str, factor: int, text: str, figure: Any) -> None:
    """factor: to the axis' unit, negative where less is better."""
    known = [row for row in rows if at(row, key) is not None]
    best = _front(known, key, factor)
    figure.set_size_inches(5.4, 4.0)
    axes = figure.subplots()
    for row in known:
        colour = INK if row is known[0] else RED if row in best else BLUE
        size = 14 * (1 + np.log2(max(row.inference, 1)))
        place = (row.training, abs(factor) * defined(row, key))
        axes.scatter(*place, s=size, color=colour, alpha=0.75, linewidths=0, zorder=3 if row in best else 2)
        if row in best or row is known[0]:
            note = {"xytext": (5, 4 if factor > 0 else -10), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(row.name, place, **note)
    if factor < 0:
        axes.invert_yaxis()
    axes.margins(x=0.12, y=0.12)
    label(axes, "training with everything before it, epochs of the base", text)


def _front(rows: list[Row], key: str, factor: int) -> list[Row]:
    """The rows that no other row of at most the same training betters."""
    value = [factor * defined(row, key) for row in rows]
    return [
        row
        for row, own in zip(rows, value, strict=True)
        if not any(o.training <= row.training and v > own for o, v in zip(rows, value, strict=True))
    ]


def beside(runs: dict[str, Report], key: str, factor: int, text: str) -> Figure:
    """Of several runs: one measure of the main votes, a row for each run, with the sd of those of several seeds."""
    better = "right" if factor > 1 else "left"
    sentence = f"Further {better} is better; a vote that is not {better} of its own base gained nothing. Bars: one sd."
    title = text[0].upper() + text[1:].split(",")[0]
    return Figure(f"beside_{key}", title, sentence, partial(_draw_beside, runs, key, factor, text))


def _draw_beside(runs: dict[str, Report], key: str, factor: int, text: str, figure: Any) -> None:
    figure.set_size_inches(5.4, 1.6 + 0.42 * len(runs))
    axes = figure.subplots()
    for i, (vote, (name, colour, _, marker)) in enumerate(VOTES.items()):
        x = [factor * defined(run.votes[vote], key) for run in runs.values()]
        sd = [factor * defined(run.sd.votes[vote], key) if run.sd else 0.0 for run in runs.values()]
        style = {"color": colour, "fmt": marker, "alpha": 0.8, "label": name}
        axes.errorbar(x, np.arange(len(runs)) + 0.16 * (i - 1), xerr=sd, **style)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    label(axes, text, "")
    widen(axes, "x", 0.005 * factor)
    legend(figure, axes)
