"""Grids of settings, and any other list of rows that is reported as one document: run through the store, one table."""

from typing import Any, NamedTuple

from bend_jax.report import tables
from bend_jax.report.document import Document, Figure, Heading, Table, Text
from bend_jax.report.plotting import COLOURS, MARKERS, label, legend, widen


class Curve(NamedTuple):
    """One line of a figure: where it is, and its values with their sd (None with one seed)."""

    label: str
    x: list[Any]
    y: list[float]
    sd: list[float] | None


def setting_text(value: Any) -> str:
    """A setting's value as a person reads it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def stopped(content: dict[str, Any]) -> list[str]:
    """The names of the rows that met a NaN or Inf."""
    return [row["name"] for row in content["rows"] if row["failed"]]


# the document
COLUMNS = {  # header: where the number is, its factor, its digits
    "base %": (("votes", "base", "accuracy"), 100, 2),
    "sBEND %": (("table", "sbend"), 100, 2),
    "aBEND %": (("table", "abend"), 100, 2),
    "mean vote %": (("votes", "mean", "accuracy"), 100, 2),
    "members %": (("table", "mean"), 100, 2),
    "checkpoints %": (("table", "orig_mean"), 100, 2),
    "base NLL": (("votes", "base", "nll_ts"), 1, 4),
    "mean vote NLL": (("votes", "mean", "nll_ts"), 1, 4),
    "ECE": (("votes", "mean", "ece"), 1, 4),
    "disagree %": (("diversity", "members"), 100, 2),
}


def at(tree: Any, path: tuple[str, ...]) -> float | None:
    """The number of a report at that path."""
    for key in path:
        tree = tree[key]
    return tree


def number(tree: Any, path: tuple[str, ...]) -> float:
    """The same of one that is always defined."""
    value = at(tree, path)
    assert value is not None
    return value


def cell(row: dict[str, Any], path: tuple[str, ...], factor: int = 100, digits: int = 2) -> str:
    """A number of a row with its sd over seeds, "-" where there is none."""
    value = None if row["failed"] else at(row, path)
    if value is None:
        return "-"
    sd = at(row["sd"], path) if row["sd"] else None
    return f"{factor * value:.{digits}f}" + (f" ± {factor * sd:.{digits}f}" if sd is not None else "")


def table(content: dict[str, Any]) -> Table:
    """A row for each combination."""
    settings = list(content["rows"][0]["settings"])
    lines = []
    for row in content["rows"]:
        own = [setting_text(row["settings"][path]) for path in settings]
        lines.append([*own, *(cell(row, *column) for column in COLUMNS.values()), f"{row['training']:.1f}"])
    return Table([*settings, *COLUMNS, "epochs"], lines, NOTE)


NOTE = (
    "Accuracies on test images; members and checkpoints: the mean of single ones. NLL: after temperature scaling on "
    "validation images; ECE before it, of the mean vote. Disagree: of pairs of members. Epochs: training with "
    "everything before it, in epochs of the base, by operations. ±: sd over seeds."
)


def csv_rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """results.csv of a sweep: every measure of COLUMNS as it was measured, and its sd."""
    settings = list(dict.fromkeys(path for row in content["rows"] for path in row["settings"]))
    header = ["name", "vote", *settings, "training_epochs", "inference_forwards", "failed"]
    header += [".".join(path) for path, _, _ in COLUMNS.values()]
    header += [f"sd.{'.'.join(path)}" for path, _, _ in COLUMNS.values()]
    lines = []
    for row in content["rows"]:
        own = [row["name"], row["vote"], *(setting_text(row["settings"].get(path, "")) for path in settings)]
        own += [f"{row['training']:.6g}", f"{row['inference']:.6g}", row["failed"] or ""]
        for tree in (row, row.get("sd")):
            values = [at(tree, path) if tree and not row["failed"] else None for path, _, _ in COLUMNS.values()]
            own += ["" if value is None else repr(value) for value in values]
        lines.append(own)
    return header, lines


def make(content: dict[str, Any]) -> Document:
    """The document of a sweep: its table, what moved, a figure."""
    rows = [row for row in content["rows"] if not row["failed"]]
    seeds = ", ".join(map(str, content["seed"]))
    paths = list(content["rows"][0]["settings"])
    blocks: list[Heading | Text | Table | Figure] = [
        Text(f"`{content['config']}`, seed {seeds}; {len(content['rows'])} combinations of {', '.join(paths)}."),
        table(content),
        Heading("What it says"),
        Text("\n".join(f"- {line}" for line in says(content))),
    ]
    blocks += figures(rows) if rows else []
    return Document(f"{content['task']}: {', '.join(paths)}", tuple(blocks))


def says(content: dict[str, Any]) -> list[str]:
    """Which combinations stopped, and how far the others lie apart."""
    lines = [f"{row['name']} stopped: {row['failed']}" for row in content["rows"] if row["failed"]]
    rows = [row for row in content["rows"] if not row["failed"]]
    if not rows:
        return [*lines, "No combination came to its end."]
    lines += [
        span(rows, "sBEND's accuracy in %", *COLUMNS["sBEND %"]),
        span(rows, "the mean vote's scaled NLL", *COLUMNS["mean vote NLL"]),
        span(rows, "the base's accuracy in %", *COLUMNS["base %"]),
        "These are test images: to take the best row of this table would be to choose on them.",
    ]
    return lines


def span(rows: list[dict[str, Any]], what: str, path: tuple[str, ...], factor: int, digits: int) -> str:
    """From the least to the greatest of a number, and whose they are."""
    ordered = sorted(rows, key=lambda row: number(row, path))
    low, high = (f"{cell(row, path, factor, digits)} ({row['name']})" for row in (ordered[0], ordered[-1]))
    if number(ordered[0], path) == number(ordered[-1], path):
        return f"Over the combinations {what} is {cell(ordered[0], path, factor, digits)} everywhere."
    return f"Over the combinations {what} goes from {low} to {high}."


def numeric(values: list[Any]) -> bool:
    """Whether they have an order on an axis."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def layout(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """(the setting along x, the setting that makes groups): "" for the second with one setting; both with more."""
    paths = list(rows[0]["settings"])
    if len(paths) == 1:
        return paths[0], ""
    if len(paths) > 2:
        return "", ""
    spread = {p: len({setting_text(r["settings"][p]) for r in rows}) for p in paths}
    along = max(paths, key=lambda p: (numeric([r["settings"][p] for r in rows]), spread[p]))
    return along, next(p for p in paths if p != along)


ACCURACY = {name: COLUMNS[name][0] for name in ("base %", "sBEND %", "mean vote %", "members %", "checkpoints %")}
NLL = {name: COLUMNS[name][0] for name in ("base NLL", "mean vote NLL")}


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Accuracy and NLL against what was swept."""
    along, groups = layout(rows)
    where = f"Along x: {along or 'the combinations in the order of the table'}; "
    who = f"a line for each {groups}, the members' mean vote" if groups else "a line for each vote, or mean of nets"
    text = f"{where}{who}; bars: sd over seeds. Where a line is level, the setting changed nothing."
    return [
        Figure("accuracy", "Accuracy", text, lambda f: draw(f, rows, ACCURACY, 100, "test accuracy, %")),
        Figure("nll", "NLL", text, lambda f: draw(f, rows, NLL, 1, "NLL after temperature scaling, nats")),
    ]


def curves_of(rows: list[dict[str, Any]], measures: dict[str, tuple[str, ...]], factor: int) -> list[Curve]:
    """A line for each measure, or with groups one for each value of the group: of the mean vote."""
    along, groups = layout(rows)
    ticks = labels(rows, along)
    x = [ticks.index(_label(row, along)) if ticks else row["settings"][along] for row in rows]
    if groups:
        own = [setting_text(row["settings"][groups]) for row in rows]
        path = next(path for name, path in measures.items() if name.startswith("mean vote"))
        chosen = [(f"{groups} = {g}", path, [i for i, o in enumerate(own) if o == g]) for g in dict.fromkeys(own)]
    else:
        chosen = [(name.rsplit(" ", 1)[0], path, list(range(len(rows)))) for name, path in measures.items()]
    result = []
    for name, path, which in chosen:
        which = sorted(which, key=lambda i: x[i])
        y = [factor * number(rows[i], path) for i in which]
        sd = [factor * number(rows[i]["sd"], path) for i in which] if rows[0]["sd"] else None
        result.append(Curve(name, [x[i] for i in which], y, sd))
    return result


def _label(row: dict[str, Any], along: str) -> str:
    return setting_text(row["settings"][along]) if along else row["name"]


def labels(rows: list[dict[str, Any]], along: str) -> list[str]:
    """The words along x where it is no number."""
    if along and numeric([row["settings"][along] for row in rows]):
        return []
    return list(dict.fromkeys(_label(row, along) for row in rows))


def draw(figure: Any, rows: list[dict[str, Any]], measures: dict[str, Any], factor: int, title: str) -> None:
    """One measure of every row."""
    along, _ = layout(rows)
    ticks = labels(rows, along)
    axes = figure.subplots()
    plot(axes, curves_of(rows, measures, factor))
    label(axes, along or "combination", title)
    widen(axes, "y", 0.5 if factor == 100 else 0.01)
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks, rotation=20, ha="right", fontsize="small")
    elif spans_decades([row["settings"][along] for row in rows]):
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


def terminal(made: Document) -> str:
    """A document's tables and sentences for a terminal."""
    parts = []
    for block in made.blocks:
        if isinstance(block, Table):
            parts.append(
                "\n".join([tables.text_table(block.header, block.rows), *([block.note] if block.note else [])])
            )
        elif not isinstance(block, Figure):
            parts.append(block.text)
    return "\n\n".join(parts)
