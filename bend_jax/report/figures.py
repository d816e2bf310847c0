"""The figures of a run's report, over one seed or several, each with the sentence that says what to see.

runs: the reports (report.json) of single seeds; a figure whose numbers they do not hold is None.
"""

from typing import Any

import numpy as np

from bend_jax.report.document import Figure
from bend_jax.report.plotting import COLOURS, DASHES, GRID, INK, MARKERS, Line, label, legend, lines, widen

Runs = list[dict[str, Any]]
BLUE, ORANGE, GREEN, PINK, RED, SKY = COLOURS
VOTES = {  # what is drawn of a vote
    "base": ("base", INK, "-", "o"),
    "mean": ("mean of probabilities", GREEN, "--", "s"),
    "sbend": ("sBEND", RED, "-.", "^"),
}


def sets(run: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """(label, colour, marker) of each set of nets: checkpoints, main generator, nulls."""
    main, others = run["setup"]["generate"], (GREEN, PINK, RED, SKY)
    found = {"checkpoints": ("checkpoints", ORANGE, "s"), main: (f"members of {main}", BLUE, "o")}
    for i, name in enumerate(run["generators"]):
        found[name] = (f"members of {name}", others[i % len(others)], MARKERS[2 + i % 4])
    return found


def accuracies(runs: Runs) -> Figure | None:
    """Every member's and checkpoint's accuracy, with the votes as lines; over several seeds less the base's."""
    if any(not run["curves"] for run in runs):
        return None
    main, several = runs[0]["setup"]["generate"], len(runs) > 1
    better = [_better(run, main) for run in runs]

    def draw(figure: Any) -> None:
        axes, drawn, spread = figure.subplots(), sets(runs[0]), np.random.default_rng(0)
        for run in runs:
            zero = run["votes"]["base"]["accuracy"] if several else 0.0
            for i, (name, (_, colour, _)) in enumerate(drawn.items()):
                x = 100 * (np.array(run["curves"]["members"][name]["accuracy"]) - zero)
                axes.scatter(x, i + spread.uniform(-0.28, 0.28, len(x)), s=9, color=colour, alpha=0.6, linewidths=0)
            for vote, (name, colour, dash, _) in VOTES.items():
                value = 100 * (run["votes"][vote]["accuracy"] - zero)
                text = name if several else f"{name} {value:.2f} %"
                axes.axvline(value, color=colour, linestyle=dash, label=text if run is runs[0] else None)
        axes.set_yticks(range(len(drawn)), list(drawn))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        label(axes, "test accuracy less the base's of the seed, points" if several else "test accuracy, %", "")
        widen(axes, "x", 0.5)
        legend(figure, axes)

    sentence = (
        f"Each dot is one net, the lines are votes: dots right of the base's line beat it ({' / '.join(better)} of "
        f"the members of {main}); a vote right of its own dots gains by voting."
    )
    return Figure("accuracies", "Accuracy of every net", sentence, draw)


def _better(run: dict[str, Any], main: str) -> str:
    """ "12 of 100", where votes by their accuracies do."""
    own = np.array(run["curves"]["members"][main]["accuracy"])
    return f"{int((own > run['votes']['base']['accuracy']).sum())} of {len(own)}"


def by_members(runs: Runs) -> Figure | None:
    """BEND's Fig. 5b: accuracy and NLL of votes over the first m members."""
    if any(not run["curves"] for run in runs):
        return None

    def draw(figure: Any) -> None:
        figure.set_size_inches(5.4, 5.2)
        above, below = figure.subplots(2, 1, sharex=True)
        over, under = [], []
        for run in runs:
            found, base = run["curves"]["by_members"], run["votes"]["base"]
            m, ends = found["m"], [found["m"][0], found["m"][-1]]
            over.append(Line("base", ends, [100 * base["accuracy"]] * 2, INK))
            parts = (("sbend", *VOTES["sbend"][:3]), ("mean", *VOTES["mean"][:3]), ("single", "one member", BLUE, ":"))
            over += [Line(text, m, _percent(found[key]), colour, dash) for key, text, colour, dash in parts]
            under.append(Line("base", ends, [base["nll"]] * 2, INK))
            under.append(Line(VOTES["mean"][0], m, found["nll"], *VOTES["mean"][1:3]))
        lines(above, over, "", "test accuracy, %")
        lines(below, under, "members m", "test NLL, nats")
        widen(above, "y", 0.5)
        widen(below, "y", 0.01)
        below.set_xscale("log")
        below.xaxis.set_major_formatter("{x:g}")
        legend(figure, above)

    sentence = (
        "Votes over the first m members (BEND's Fig. 5b; one member: their mean accuracy): where the curves are flat, "
        "more members add nothing; below the base's line in the lower panel is a better likelihood."
    )
    return Figure("by_members", "Accuracy and NLL against the number of members", sentence, draw)


def _percent(values: list[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def diversity(runs: Runs) -> Figure:
    """BEND's Fig. 4: how often two nets disagree, and how much their errors are the same."""
    panels = (
        ("pairs' disagreement, % of test images", ("checkpoints", "members", "cross"), 100),
        ("largest error IoU (1: the same errors)", ("iou_checkpoints", "iou_members", "iou_cross"), 1),
    )

    def draw(figure: Any) -> None:
        figure.set_size_inches(5.4, 4.0)
        for axes, (text, keys, factor) in zip(figure.subplots(2, 1), panels, strict=True):
            for i, (key, colour) in enumerate(zip(keys, (ORANGE, BLUE, GREEN), strict=True)):
                found = [factor * run["diversity"][key] for run in runs if run["diversity"][key] is not None]
                axes.barh(i, sum(found) / len(found) if found else 0.0, color=colour, height=0.6)
                if len(runs) > 1:
                    axes.scatter(found, [i] * len(found), color=INK, s=12, zorder=3)
            axes.set_yticks(range(3), ["checkpoints", "members", "member to\ncheckpoint"])
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            label(axes, text, "")

    own, other = ([run["diversity"][key] for run in runs] for key in ("members", "checkpoints"))
    said = " / ".join("-" if v is None else f"{100 * v:.2f} %" for v in own)
    beside = " / ".join("-" if v is None else f"{100 * v:.2f} %" for v in other)
    sentence = (
        f"Two members disagree on {said} of the test images, two checkpoints on {beside} (BEND's Fig. 4): nets that "
        "hardly disagree cannot gain by voting." + (" Dots are seeds." if len(runs) > 1 else "")
    )
    return Figure("diversity", "Diversity", sentence, draw)


def reliability(runs: Runs) -> Figure | None:
    """Accuracy against confidence, before and after temperature scaling."""
    if any(not run["curves"] for run in runs):
        return None

    def draw(figure: Any) -> None:
        figure.set_size_inches(5.4, 3.4)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, when, title in zip(panels, ("before", "after"), ("as they are", "temperature-scaled"), strict=True):
            axes.plot([0, 100], [0, 100], color=GRID, linewidth=1.2)
            found = []
            for run in runs:
                for vote, (name, colour, dash, marker) in VOTES.items():
                    bins = run["curves"]["reliability"][vote][when]
                    both = [
                        (100 * c, 100 * a)
                        for c, a in zip(bins["confidence"], bins["accuracy"], strict=True)
                        if c is not None
                    ]
                    found.append(Line(name, [c for c, _ in both], [a for _, a in both], colour, dash, marker))
            lines(axes, found, "confidence, %", "accuracy, %" if when == "before" else "")
            axes.set_title(title, fontsize=10)
            axes.set_xlim(0, 102)
            axes.set_ylim(0, 102)
        legend(figure, panels[0])

    sentence = (
        "On the grey diagonal the stated confidence is the share that is right; below it a vote is too sure of itself. "
        "Right: after one temperature, fitted on validation images."
    )
    return Figure("reliability", "Reliability", sentence, draw)


def risk_coverage(runs: Runs) -> Figure | None:
    """The error among the images that a vote is surest of."""
    if any(not run["curves"] for run in runs):
        return None

    def draw(figure: Any) -> None:
        axes, found = figure.subplots(), []
        for run in runs:
            for vote, (name, colour, dash, _) in VOTES.items():
                curve = run["curves"]["risk_coverage"][vote]
                found.append(Line(name, _shares(curve["coverage"]), _percent(curve["risk"]), colour, dash))
        lines(axes, found, "coverage: share of images answered, surest first, %", "error among them, %")
        axes.set_ylim(bottom=0)
        legend(figure, axes)

    sentence = "Answering only the images it is surest of, a vote errs less; the lower curve ranks its errors better."
    return Figure("risk_coverage", "Risk and coverage", sentence, draw)


def _shares(values: list[float]) -> list[float]:
    return [100 * value for value in values]


def novelty(runs: Runs) -> Figure | None:
    """p-diff's scatter: accuracy against the largest error IoU with a checkpoint."""
    if any(not run["curves"] for run in runs):
        return None

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for run in runs:
            for name, (text, colour, marker) in sets(run).items():
                own = run["curves"]["members"][name]
                points = {"s": 18, "color": colour, "marker": marker, "alpha": 0.6, "linewidths": 0}
                y = _percent(own["accuracy"])
                pairs = [(a, b) for a, b in zip(own["max_iou"], y, strict=True) if a is not None]
                x, y = [a for a, _ in pairs], [b for _, b in pairs]
                axes.scatter(x, y, label=text if run is runs[0] else None, **points)
        label(axes, "largest error IoU with a checkpoint (1: the same errors)", "test accuracy, %")
        widen(axes, "y", 0.5)
        widen(axes, "x", 0.02)
        axes.set_xlim(right=min(axes.get_xlim()[1], 1.004))
        legend(figure, axes)

    sentence = (
        "p-diff's scatter: a member at the far right makes the errors of one checkpoint; new and good would be far "
        "left and high up. Checkpoints are held against the other checkpoints."
    )
    return Figure("novelty", "Accuracy against likeness to a checkpoint", sentence, draw)


def trainings(runs: Runs) -> Figure | None:
    """The loss of every training against its steps, a panel for each kind."""
    if not any(run["training"] for run in runs):
        return None
    kinds = list(dict.fromkeys(name.split()[0] for run in runs for name in run["training"]))

    def draw(figure: Any) -> None:
        figure.set_size_inches(5.4, 0.6 + 1.7 * len(kinds))
        for i, kind in enumerate(kinds):
            axes, found = figure.add_subplot(len(kinds), 1, i + 1), []
            for curves in (run["training"] for run in runs):
                for own in (curve for name, curve in curves.items() if name.split()[0] == kind):
                    found.append(Line("training", own["step"], own["loss"], BLUE, DASHES[0]))
                    if "held_out_loss" in own:
                        found.append(Line("held out", own["step"], own["held_out_loss"], ORANGE, DASHES[1]))
            lines(axes, found, "step" if i == len(kinds) - 1 else "", "loss")
            values = [v for line in found for v in line.y if v is not None]
            if values and min(values) > 0 and max(values) > 3 * min(values):
                axes.set_yscale("log")
            axes.set_title(kind, fontsize=10, loc="left")
            held = any(line.label == "held out" for line in found)
            if held and not figure.legends:
                legend(figure, axes)

    sentence = "A curve that still falls at its end would gain by more steps; a held-out one that rises overfits."
    return Figure("training", "Losses of the trainings", sentence, draw)


PARTS = {
    "t_pre": "training the base",
    "t_collect": "collecting",
    "t_autoencoder": "autoencoder",
    "t_diffusion": "diffusion",
    "t_sample": "drawing members",
    "t_evaluate": "evaluating",
    "compile": "compiling (all)",
}


def seconds(runs: Runs) -> Figure:
    """Where the time went."""
    means = {}
    for key, text in PARTS.items():
        known = [run["cost"][key] for run in runs if run["cost"][key] is not None]
        means |= {text: sum(known) / len(known)} if known else {}
    total = sum(means.values())

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        colours = [SKY if text == PARTS["compile"] else BLUE for text in means]
        bars = axes.barh(list(means), list(means.values()), color=colours, height=0.65)
        axes.bar_label(bars, labels=[f"{value:.3g} s" for value in means.values()], padding=3, fontsize=9)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        label(axes, "seconds", "")

    most = max(means, key=lambda text: means[text])
    sentence = f"Most of the {total:.3g} s{' (mean over seeds)' if len(runs) > 1 else ''}: {most}."
    return Figure("seconds", "Where the time went", sentence, draw)


def against_cost(rows: list[dict[str, Any]]) -> list[Figure]:
    """Of a comparison's rows: accuracy and scaled NLL against what they cost to train, points as large as a vote."""
    return [
        _scatter(rows, "accuracy", 100, "test accuracy, %", "Accuracy against training"),
        _scatter(rows, "nll_ts", -1, "test NLL after temperature scaling, nats", "Likelihood against training"),
    ]


def _scatter(rows: list[dict[str, Any]], key: str, factor: int, text: str, title: str) -> Figure:
    """factor: to the axis' unit, negative where less is better."""
    known = [row for row in rows if row[key] is not None]
    best = _front(known, key, factor)

    def draw(figure: Any) -> None:
        figure.set_size_inches(5.4, 4.0)
        axes = figure.subplots()
        for row in known:
            colour = INK if row is known[0] else RED if row in best else BLUE
            size = 14 * (1 + np.log2(max(row["inference"], 1)))
            at = (row["training"], abs(factor) * row[key])
            axes.scatter(*at, s=size, color=colour, alpha=0.75, linewidths=0, zorder=3 if row in best else 2)
            if row in best or row is known[0]:
                note = {"xytext": (5, 4 if factor > 0 else -10), "textcoords": "offset points", "fontsize": 8}
                axes.annotate(row["name"], at, **note)
        if factor < 0:
            axes.invert_yaxis()
        axes.margins(x=0.12, y=0.12)
        label(axes, "training with everything before it, epochs of the base", text)

    sentence = (
        "Up is better, left is cheaper. Red rows with a name: no row of at most their training is better; black: the "
        "first row. Larger points cost more forward passes for an image."
    )
    return Figure(f"cost_{key}", title, sentence, draw)


def _front(rows: list[dict[str, Any]], key: str, factor: int) -> list[dict[str, Any]]:
    """The rows that no other row of at most the same training betters."""
    return [
        row
        for row in rows
        if not any(o["training"] <= row["training"] and factor * o[key] > factor * row[key] for o in rows)
    ]


def beside(runs: dict[str, dict[str, Any]], key: str, factor: int, text: str) -> Figure:
    """Of several runs: one measure of the main votes, a row for each run, with the sd of those of several seeds."""

    def draw(figure: Any) -> None:
        figure.set_size_inches(5.4, 1.6 + 0.42 * len(runs))
        axes = figure.subplots()
        for vote, (name, colour, _, marker) in VOTES.items():
            x = [factor * run["votes"][vote][key] for run in runs.values()]
            sd = [factor * run["sd"]["votes"][vote][key] if "sd" in run else 0.0 for run in runs.values()]
            look = {"color": colour, "fmt": marker, "alpha": 0.8, "label": name}
            axes.errorbar(x, np.arange(len(runs)) + 0.16 * (list(VOTES).index(vote) - 1), xerr=sd, **look)
        axes.set_yticks(range(len(runs)), list(runs))
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        label(axes, text, "")
        widen(axes, "x", 0.005 * factor)
        legend(figure, axes)

    better = "right" if factor > 1 else "left"
    sentence = f"Further {better} is better; a vote that is not {better} of its own base gained nothing. Bars: one sd."
    return Figure(f"beside_{key}", text[0].upper() + text[1:].split(",")[0], sentence, draw)
