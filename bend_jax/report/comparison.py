"""The report of a comparison: its table, what each row differs by, its document."""

from bend_jax.metrics import Interval
from bend_jax.report import answer, figures
from bend_jax.report.content import Comparison, Row, StoppedRow
from bend_jax.report.document import Document, Figure, Heading, Lines, Renderer, Table, Text, noted
from bend_jax.report.records import at
from bend_jax.report.text import number, percent

SCORES = ("accuracy", "nll", "nll_ts", "ece", "ece_ts", "disagreement", "knob")  # of the row's vote, each with its sd
NOTE = (
    "A star marks a difference to the first row whose 95% interval (paired bootstrap over test images, seeds as "
    "blocks) leaves out 0; not corrected for the number of rows. Scaled: after temperature scaling on validation "
    "images. Disagree: of all the row's voters. Epochs: training with everything before it, in epochs of the base, by "
    "operations. Forwards: what the vote costs for one image, in forward passes of the base."
)


def table(content: Comparison) -> Table:
    """A row for each combination."""
    header = ["", "accuracy %", "vs first", "NLL", "NLL, scaled", "vs first", "ECE", "ECE, scaled", "disagree %"]
    lines = [[row.name, *_cells(row), f"{row.training:.1f}", f"{row.inference:.2f}"] for row in content.rows]
    return Table([*header, "epochs", "forwards"], lines, NOTE)


def _cells(row: Row | StoppedRow) -> list[str]:
    """What it measured; nothing where it stopped."""
    if isinstance(row, StoppedRow):
        return ["-"] * 8
    return [
        percent(row.accuracy, row.accuracy_sd),
        _gap(row.vs_base and row.vs_base.accuracy, 100, 2),
        number(row.nll, row.nll_sd),
        number(row.nll_ts, row.nll_ts_sd),
        _gap(row.vs_base and row.vs_base.nll_ts, 1, 4),
        number(row.ece, form=".3f"),
        number(row.ece_ts, form=".3f"),
        number(row.disagreement, form=".1f", factor=100),
    ]


def _gap(found: Interval | None, factor: int, digits: int) -> str:
    if found is None:
        return "-"
    star = "*" if found.low > 0 or found.high < 0 else ""
    return f"{factor * found.mean:+.{digits}f}{star}"


def against_rows(content: Comparison) -> list[str]:
    """Each row against the row that it names, with what both cost to train."""
    lines, epochs = [], {row.name: row.training for row in content.rows}
    for row in content.finished:
        if row.vs_against is None or row.against is None:
            continue
        cost = f"{row.training:.1f} against {epochs[row.against]:.1f} epochs"
        accuracy, nll = row.vs_against.accuracy, row.vs_against.nll_ts
        text = f"{row.name} against {row.against} ({cost}): accuracy {answer.interval(accuracy, 100, '+.2f')} points"
        lines.append(text + (f", scaled NLL {answer.interval(nll, 1, '+.4f')}" if nll else ""))
    return lines


def document(content: Comparison) -> Document:
    """The report of a comparison."""
    spread = " Mean ± sd over seeds." if len(content.seed) > 1 else ""
    blocks: list[Heading | Text | Table | Figure] = [
        Text(f"`{content.config}`, seed {', '.join(map(str, content.seed))}.{spread}"),
        table(content),
    ]
    if content.stopped:
        lines = [f"- {row.name} stopped: {row.failed}" for row in content.stopped]
        blocks += [Heading("Rows that stopped"), Text("\n".join(lines))]
    blocks += figures.against_cost(content.finished) if content.finished else []
    against = against_rows(content)
    if against:
        blocks += [Heading("Against another row"), Text("\n".join(f"- {line}" for line in against))]
    blocks = noted(blocks, [row.setup.validation for row in content.finished])
    return Document(content.task, tuple(blocks), _answer(content))


def _answer(content: Comparison) -> str:
    """How many rows are better than the first one, and how many worse."""
    gaps = [row.vs_base for row in content.finished if row.vs_base is not None]
    if not gaps:
        return ""
    accuracy = [answer.sign(gap.accuracy) for gap in gaps]
    nll = [-answer.sign(gap.nll_ts) for gap in gaps if gap.nll_ts]
    first = content.rows[0]
    own = f" ({percent(first.accuracy)}%)" if isinstance(first, Row) else ""
    return (
        f"Of {len(gaps)} rows {accuracy.count(1)} are more accurate than the first, {first.name}{own}, and "
        f"{accuracy.count(-1)} less; {nll.count(1)} have less NLL and {nll.count(-1)} more; the rest is not "
        "distinguishable (95% intervals, not corrected for the number of rows)."
    )


def rows_csv(content: Comparison) -> Lines:
    """results.csv: a line for each row, numbers in full; undefined: empty."""
    keys = ["training", "inference", *(name for key in SCORES for name in (key, f"{key}_sd"))]
    lines = []
    for row in content.rows:
        values = [at(row, key) if isinstance(row, Row) or key in ("training", "inference") else None for key in keys]
        lines.append([row.name, row.vote, *("" if v is None else str(v) for v in values), row.failed or ""])
    return ["name", "vote", *keys, "failed"], lines


RENDERER = Renderer("compare", document, rows_csv, curves=False)
