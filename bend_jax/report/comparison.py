"""The report of a comparison: its table, what each row differs by, its page."""

from typing import Any

from bend_jax.report import document, figures, tables


def table(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The comparison's table: a star marks a difference to the first row whose 95% interval leaves out 0."""
    header = ["", "accuracy %", "vs first", "NLL", "NLL, scaled", "vs first", "ECE", "ECE, scaled", "disagree %"]
    lines = []
    for row in content["rows"]:
        vs = row["vs_base"] or {"accuracy": None, "nll_ts": None}
        lines.append(
            [
                row["name"],
                _cell(row, "accuracy", 100, 2),
                _gap(vs["accuracy"], 100, 2),
                _cell(row, "nll", 1, 4),
                _cell(row, "nll_ts", 1, 4),
                _gap(vs["nll_ts"], 1, 4),
                _cell(row, "ece", 1, 3, spread=False),
                _cell(row, "ece_ts", 1, 3, spread=False),
                _cell(row, "disagreement", 100, 1, spread=False),
                f"{row['training']:.1f}",
                f"{row['inference']:.2f}",
            ]
        )
    return [*header, "epochs", "forwards"], lines


def _cell(row: dict[str, Any], key: str, factor: int, digits: int, *, spread: bool = True) -> str:
    if row[key] is None:
        return "-"
    sd = row[f"{key}_sd"] if spread else None
    return f"{factor * row[key]:.{digits}f}" + (f" ± {factor * sd:.{digits}f}" if sd is not None else "")


def _gap(found: dict[str, float] | None, factor: int, digits: int) -> str:
    if found is None:
        return "-"
    star = "*" if found["low"] > 0 or found["high"] < 0 else ""
    return f"{factor * found['mean']:+.{digits}f}{star}"


def against_rows(content: dict[str, Any]) -> list[str]:
    """Each row against the row that it names, with what both cost to train."""
    lines, epochs = [], {row["name"]: row["training"] for row in content["rows"]}
    for row in content["rows"]:
        if row["vs_against"] is None:
            continue
        accuracy, nll = row["vs_against"]["accuracy"], row["vs_against"]["nll_ts"]
        cost = f"{row['training']:.1f} against {epochs[row['against']]:.1f} epochs"
        text = f"{row['name']} against {row['against']} ({cost}): accuracy {_interval(accuracy, 100, 2)} points"
        lines.append(text + (f", scaled NLL {_interval(nll, 1, 4)}" if nll else ""))
    return lines


def _interval(found: dict[str, float], factor: int, digits: int) -> str:
    low, high = factor * found["low"], factor * found["high"]
    return f"{factor * found['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def page(content: dict[str, Any]) -> document.Document:
    """The report of a comparison."""
    seeds, header, against = ", ".join(map(str, content["seed"])), table(content), against_rows(content)
    spread = " Mean ± sd over seeds." if len(content["seed"]) > 1 else ""
    blocks = [document.Text(f"`{content['config']}`, seed {seeds}.{spread}"), document.Table(*header, NOTE)]
    blocks += figures.against_cost(content["rows"])
    if against:
        lines = "\n".join(f"- {line}" for line in against)
        blocks += [document.Heading("Against another row"), document.Text(lines)]
    return document.Document(content["task"], tuple(blocks))


def rows_csv(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """results.csv: a line for each row, numbers in full; undefined: empty."""
    header = [key for key, value in content["rows"][0].items() if not key.startswith("vs_") and key != "against"]
    return header, [["" if row[key] is None else str(row[key]) for key in header] for row in content["rows"]]


NOTE = (
    "A star marks a difference to the first row whose 95% interval (paired bootstrap over test images, seeds as "
    "blocks) leaves out 0; not corrected for the number of rows. Scaled: after temperature scaling on validation "
    "images. Disagree: of all the row's voters. Epochs: training with everything before it, in epochs of the base, by "
    "operations. Forwards: what the vote costs for one image, in forward passes of the base."
)


def terminal(content: dict[str, Any]) -> str:
    """The table and the comparisons at one budget."""
    return "\n".join([tables.text_table(*table(content)), "", NOTE, *(["", *against_rows(content)])])
