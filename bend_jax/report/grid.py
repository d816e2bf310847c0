"""The report of a sweep: a table of its combinations of settings, how far they lie apart, figures."""

from functools import partial
from typing import Any, NamedTuple

from bend_jax.report import answer
from bend_jax.report.content import Comparison, Row, StoppedRow
from bend_jax.report.document import Document, Figure, Heading, Lines, Renderer, Table, Text, noted
from bend_jax.report.plotting import COLOURS, MARKERS, label, legend, widen
from bend_jax.report.records import at, defined
from bend_jax.report.text import number


class Measure(NamedTuple):
    """A number of a row: its path, how it is written, and the factor to its unit."""

    path: str
    form: str = ".2f"
    factor: int = 100


class Curve(NamedTuple):
    """One line of a figure: where it is, and its values with their sd (None with one seed)."""

    label: str
    x: list[Any]
    y: list[float]
    sd: list[float] | None


COLUMNS = {
    "base %": Measure("votes.base.accuracy"),
    "sBEND %": Measure("table.sbend"),
    "aBEND %": Measure("table.abend"),
    "mean of probabilities %": Measure("votes.mean.accuracy"),
    "mean member %": Measure("table.mean"),
    "mean checkpoint %": Measure("table.orig_mean"),
    "base NLL": Measure("votes.base.nll_ts", ".4f", 1),
    "mean of probabilities NLL": Measure("votes.mean.nll_ts", ".4f", 1),
    "ECE": Measure("votes.mean.ece", ".4f", 1),
    "disagree %": Measure("diversity.members"),
}
NOTE = (
    "Accuracies on test images; sBEND: the members' majority vote; aBEND: one drawn member's label. NLL: after "
    "temperature scaling on validation images; ECE before it, of the mean of probabilities. Disagree: of pairs of "
    "members. Epochs: training with everything before it, in epochs of the base, by operations. ±: sd over seeds."
)


def setting_text(value: Any) -> str:
    """A setting's value as a person reads it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def cell(row: Row | StoppedRow, path: str, form: str = ".2f", factor: int = 100) -> str:
    """A number of a row with its sd over seeds, "-" where there is none."""
    if isinstance(row, StoppedRow):
        return "-"
    return number(at(row, path), at(row.sd, path) if row.sd else None, form, factor)


def table(content: Comparison) -> Table:
    """A row for each combination."""
    settings = list(content.rows[0].settings)
    lines = []
    for row in content.rows:
        own = [setting_text(row.settings[path]) for path in settings]
        lines.append([*own, *(cell(row, *column) for column in COLUMNS.values()), f"{row.training:.1f}"])
    return Table([*settings, *COLUMNS, "epochs"], lines, NOTE)


def rows_csv(content: Comparison) -> Lines:
    """results.csv: every measure of COLUMNS as it was measured, and its sd; undefined: empty."""
    settings = list(dict.fromkeys(path for row in content.rows for path in row.settings))
    paths = [column.path for column in COLUMNS.values()]
    header = ["name", "vote", *settings, "training_epochs", "inference_forwards", "failed"]
    header += [*paths, *(f"sd.{path}" for path in paths)]
    lines = []
    for row in content.rows:
        own = [row.name, row.vote, *(setting_text(row.settings.get(path, "")) for path in settings)]
        own += [f"{row.training:.6g}", f"{row.inference:.6g}", row.failed or ""]
        for tree in (row, row.sd) if isinstance(row, Row) else (None, None):
            values = [at(tree, path) if tree else None for path in paths]
            own += ["" if value is None else repr(value) for value in values]
        lines.append(own)
    return header, lines


def document(content: Comparison) -> Document:
    """The report of a sweep: its table, what moved, figures."""
    seeds, paths = ", ".join(map(str, content.seed)), list(content.rows[0].settings)
    blocks: list[Heading | Text | Table | Figure] = [
        Text(f"`{content.config}`, seed {seeds}; {len(content.rows)} combinations of {', '.join(paths)}."),
        table(content),
        Heading("What it says"),
        Text("\n".join(f"- {line}" for line in says(content))),
    ]
    blocks += figures(content.finished) if content.finished else []
    blocks = noted(blocks, [row.setup.validation for row in content.finished])
    return Document(f"{content.task}: {', '.join(paths)}", tuple(blocks), tally(content.finished))


def tally(rows: list[Row]) -> str:
    """In how many of the rows and seeds the ensemble is better than its base."""
    return answer.tally([answer.of_run(run) for row in rows for run in row.runs])


RENDERER = Renderer("sweep", document, rows_csv, curves=True)


def says(content: Comparison) -> list[str]:
    """Which combinations stopped, and how far the others lie apart."""
    lines, rows = [f"{row.name} stopped: {row.failed}" for row in content.stopped], content.finished
    if not rows:
        return [*lines, "No combination came to its end."]
    return [
        *lines,
        span(rows, "sBEND's accuracy in %", COLUMNS["sBEND %"]),
        span(rows, "the mean of probabilities' scaled NLL", COLUMNS["mean of probabilities NLL"]),
        span(rows, "the base's accuracy in %", COLUMNS["base %"]),
        "These are test images: to take the best row of this table would be to choose on them.",
    ]


def span(rows: list[Row], what: str, measure: Measure) -> str:
    """From the least to the greatest of a number, and whose they are."""
    ordered = sorted(rows, key=lambda row: defined(row, measure.path))
    first, last = ordered[0], ordered[-1]
    if defined(first, measure.path) == defined(last, measure.path):
        return f"Over the combinations {what} is {cell(first, *measure)} everywhere."
    low, high = (f"{cell(row, *measure)} ({row.name})" for row in (first, last))
    return f"Over the combinations {what} goes from {low} to {high}."


def numeric(values: list[Any]) -> bool:
    """Whether they have an order on an axis."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def layout(rows: list[Row]) -> tuple[str, str]:
    """(the setting along x, the setting that makes groups): "" for the second with one setting; both with more."""
    paths = list(rows[0].settings)
    if len(paths) == 1:
        return paths[0], ""
    if len(paths) > 2:
        return "", ""
    spread = {p: len({setting_text(r.settings[p]) for r in rows}) for p in paths}
    along = max(paths, key=lambda p: (numeric([r.settings[p] for r in rows]), spread[p]))
    return along, next(p for p in paths if p != along)


ACCURACY = {
    name: COLUMNS[name]
    for name in ("base %", "sBEND %", "mean of probabilities %", "mean member %", "mean checkpoint %")
}
NLL = {name: COLUMNS[name] for name in ("base NLL", "mean of probabilities NLL")}


def figures(rows: list[Row]) -> list[Figure]:
    """Accuracy and NLL against what was swept."""
    along, groups = layout(rows)
    where = f"Along x: {along or 'the combinations in the order of the table'}; "
    who = (
        f"a line for each {groups}, the members' mean of probabilities"
        if groups
        else "a line for each vote, or mean of nets"
    )
    text = f"{where}{who}; bars: sd over seeds. Where a line is level, the setting changed nothing."
    return [
        Figure("accuracy", "Accuracy", text, partial(draw, rows, ACCURACY, "test accuracy, %", 0.5)),
        Figure("nll", "NLL", text, partial(draw, rows, NLL, "NLL after temperature scaling, nats", 0.01)),
    ]


def curves_of(rows: list[Row], measures: dict[str, Measure]) -> list[Curve]:
    """A line for each measure, or with groups one for each value of the group: of the mean of probabilities."""
    along, groups = layout(rows)
    ticks = labels(rows, along)
    places = [(ticks.index(_label(row, along)) if ticks else row.settings[along], row) for row in rows]
    if not groups:
        return [_curve(name.rsplit(" ", 1)[0], measure, places) for name, measure in measures.items()]
    measure = next(measure for name, measure in measures.items() if name.startswith("mean of probabilities"))
    own: dict[str, list[tuple[Any, Row]]] = {}
    for x, row in places:
        own.setdefault(f"{groups} = {setting_text(row.settings[groups])}", []).append((x, row))
    return [_curve(name, measure, found) for name, found in own.items()]


def _curve(name: str, measure: Measure, places: list[tuple[Any, Row]]) -> Curve:
    """One measure of rows at their places along x."""
    ordered = sorted(places, key=lambda place: place[0])
    y = [measure.factor * defined(row, measure.path) for _, row in ordered]
    sd = [measure.factor * defined(row.sd, measure.path) for _, row in ordered if row.sd]
    return Curve(name, [x for x, _ in ordered], y, sd or None)


def _label(row: Row, along: str) -> str:
    return setting_text(row.settings[along]) if along else row.name


def labels(rows: list[Row], along: str) -> list[str]:
    """The words along x where it is no number."""
    if along and numeric([row.settings[along] for row in rows]):
        return []
    return list(dict.fromkeys(_label(row, along) for row in rows))


def draw(rows: list[Row], measures: dict[str, Measure], title: str, least: float, figure: Any) -> None:
    """Measures of one unit, of every row; least: of the range of the axis."""
    along, _ = layout(rows)
    ticks = labels(rows, along)
    axes = figure.subplots()
    plot(axes, curves_of(rows, measures))
    label(axes, along or "combination", title)
    widen(axes, "y", least)
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks, rotation=20, ha="right", fontsize="small")
    elif spans_decades([row.settings[along] for row in rows]):
        axes.set_xscale("log")
    legend(figure, axes)


def spans_decades(values: list[Any]) -> bool:
    """Whether a logarithmic axis shows them better."""
    return min(values) > 0 and max(values) / min(values) >= 20


def plot(axes: Any, curves: list[Curve]) -> None:
    """Lines with colours and marks that can be told apart."""
    for i, curve in enumerate(curves):
        colour, mark = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.errorbar(curve.x, curve.y, yerr=curve.sd, capsize=3, color=colour, marker=mark, label=curve.label)
