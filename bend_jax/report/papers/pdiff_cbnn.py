"""p-diff's tables and CBNN's claim, beside what those papers print."""

from bend_jax.report import figures
from bend_jax.report.document import Heading, Table
from bend_jax.report.grid import cell
from bend_jax.report.papers.cells import (
    ORIGINAL,
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
from bend_jax.report.records import defined
from bend_jax.report.text import number

CROSS = "diversity.iou_cross"


def pdiff_table(rows: Rows, published: Published) -> Blocks:
    """Original, weight average, best generated; and what is chosen without the test images."""
    paths = {
        "original": "table.orig_max",
        "weight average": "votes.swa.accuracy",
        "best generated": "table.max",
    }
    lines, gains = [], []
    series: dict[str, list[float]] = {"ours": [], "published": [], "ours, best on validation": []}
    for row in rows:
        key = key_of(row.name, published)
        cells = [beside(row, path, value) for path, value in zip(paths.values(), published[key], strict=True)]
        for i, label in enumerate((f"{row.name}, ours", f"{key}, published", "difference")):
            lines.append([label, *(own[i] for own in cells)])
        own = points(row, paths["best generated"], paths["original"])
        fair = points(row, "votes.best.accuracy", ORIGINAL)
        theirs = published[key][2] - published[key][0]
        gains.append([row.name, *map(signed, (own, theirs, own - theirs, fair)), cell(row, "table.mean")])
        for values, value in zip(series.values(), (own, theirs, fair), strict=True):
            values.append(value)
    header = ["", "best generated - original", "published", "difference", "best on validation - mean original"]
    note = (
        "Original and best generated: the best on test images of k checkpoints and of m generated networks, as p-diff "
        "reports them. That is a choice on test images, and there are more generated ones to choose from; best on "
        "validation chooses without them."
    )
    sentence = (
        "In points. A best of many on the test images gains by chance; chosen on validation images the gain is honest."
    )
    return [
        Table(["test accuracy, %", *paths], lines, note),
        Heading("What generating gained"),
        Table([*header, "mean generated, %"], gains, "Points of test accuracy."),
        dotted("best", "The best generated network", sentence, [r.name for r in rows], series),
    ]


def pdiff_noise(rows: Rows, published: Published) -> Blocks:
    """Best, mean and median of the generated networks for each noise, over the mean checkpoint."""
    names = {"best": "table.max", "mean": "table.mean", "median": "table.median"}
    original = published["original"]
    lines = []
    series: dict[str, list[float]] = {"ours": [], "published": []}
    for row in rows:
        for name, path, theirs in zip(names, names.values(), published[row.name], strict=True):
            own = points(row, path, ORIGINAL)
            gaps = (own, theirs - original, own - theirs + original)
            lines.append([f"{row.name}, {name}", *beside(row, path, theirs), *map(signed, gaps)])
            if name == "mean":
                series["ours"].append(own)
                series["published"].append(theirs - original)
    header = ["noise on, generated", "accuracy, %", "published", "difference"]
    sentence = (
        "The mean generated network minus the original, in points: published, noise on the latents saves six points. "
        "Level marks of ours: here nothing has to be saved."
    )
    return [
        Table([*header, "over the original", "published", "difference"], lines, f"Original: here the mean checkpoint, "
              f"published {original:.1f}% (ResNet-18 on CIFAR-100). Points where it says over."),
        dotted("noise", "Noise in the autoencoder", sentence, [r.name for r in rows], series),
    ]  # fmt: skip


def pdiff_novelty(rows: Rows, published: Published) -> Blocks:
    """The error IoU of each pairing, and accuracy against it for every network.

    A row that is held against another one has its checkpoints with noise as members: a line of that row's table.
    """
    pairings = {
        "among originals": ("diversity.iou_checkpoints", "table.orig_mean"),
        "among generated": ("diversity.iou_members", "table.mean"),
        "generated to originals": (CROSS, "table.mean"),
        "Gaussian to originals": ("generators.gaussian.novelty.max_iou", "generators.gaussian.table.mean"),
    }
    note = (
        "Error IoU: of the sets of wrongly labelled test images, each network's largest to another, on average. Noise: "
        "on an original, its sd over that of the tensor it is added to, as in p-diff's code. Of a trajectory each "
        "original is the one before it, fine-tuned: p-diff's fine-tuned networks are the line among originals."
    )
    blocks: Blocks = []
    for row in (row for row in rows if not row.against):
        lines = []
        for name, (path, accuracy) in pairings.items():
            theirs = published.get(name)
            gap = defined(row, path) - theirs if theirs else None
            own = [cell(row, path, ".3f", 1), number(theirs, form=".3f"), number(gap, form="+.3f")]
            lines.append([name, *own, cell(row, accuracy)])
        for other in (other for other in rows if other.against == row.name):
            own = [cell(other, CROSS, ".3f", 1), "-", "-", cell(other, "table.mean")]
            lines.append([f"{other.name.removeprefix(row.name + ', ')} to originals", *own])
        own = row.novelty
        values = (own.copy_share, own.spread, own.nearest, own.leave_one_out)
        table = Table(
            ["of the weights", "copies", "spread", "to the nearest checkpoint", "checkpoints' own"],
            [["ours", *(number(value, form=".3g") for value in values)]],
        )
        blocks += [
            Heading(row.name),
            Table(["error IoU", "ours", "published", "difference", "mean accuracy, %"], lines, note),
            table,
        ]
        blocks += renamed(figures.novelty(row.runs), row)
    return blocks


def cbnn(rows: Rows, published: Published) -> Blocks:
    """Boosted checkpoints minus the base that was trained as long."""
    lines, gains = [], []
    series: dict[str, list[float]] = {"ours": [], "published": []}
    by_name, places = {row.name: row for row in rows}, []
    for row in rows:
        own = [cell(row, f"votes.{row.vote}.accuracy"), cell(row, f"votes.{row.vote}.nll_ts", ".4f", 1)]
        lines.append([row.name, *own, f"{row.training:.1f}", f"{row.inference:.0f}"])
    for name, paper in published.items():
        row = by_name.get(f"{name}: CBNN")
        if row is None or row.vs_against is None:
            continue
        mean, low, high = (100 * value for value in row.vs_against.accuracy)
        own = [name, signed(mean), f"{low:+.2f} to {high:+.2f}"]
        gains += [[*own, f"{theirs:+.2f}", label, signed(mean - theirs)] for label, theirs in paper.items()]
        places.append(name)
        series["ours"].append(mean)
        series["published"].append(max(paper.values()))
    header = ["training set", "CBNN - base as long", "95% interval", "published", "published on", "difference"]
    sentence = "Points of accuracy over one network that was trained as long. Left of 0 the boosting lost."
    figure = dotted("gain", "CBNN at equal budget", sentence, places, series)
    return [
        Table(["", "test accuracy, %", "NLL, scaled", "training, epochs", "forward passes"], lines, "Test images are "
              "balanced in every row. Training: by operations, CBNN's passes over its training set included."),
        Heading("At equal budget"),
        Table(header, gains, "Interval: paired bootstrap over test images. CBNN votes with all its checkpoints, at as "
              "many forward passes."),
        *([figure] if series["ours"] else []),
    ]  # fmt: skip
