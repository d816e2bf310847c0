"""report.json from what the stages measured, the rows of its tables, what they say, and its face on a terminal."""

import math
from typing import Any

TABLE = {
    "sbend": "sBEND",
    "abend": "aBEND",
    "max": "max",
    "mean": "mean",
    "median": "med",
    "orig_max": "orig max",
    "orig_mean": "orig mean",
    "orig_median": "orig med",
    "potential": "potential",
}
VOTES = {
    "base": "base",
    "swa": "average of the checkpoints",
    "checkpoints_best": "best checkpoint on validation",
    "checkpoints_mean": "checkpoints, mean of probabilities",
    "sbend": "sBEND (majority)",
    "abend": "aBEND (sampled)",
    "mean": "mean of probabilities",
    "weighted": "mean weighted by the collector",
    "greedy": "mean of a greedy choice on validation",
    "best": "best member on validation",
}


def rows_table(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Table 3: a row for the main generator and one for each null, in percent."""
    sd = content.get("sd")
    rows = []
    for name, part, spread in _generators(content):
        cells = []
        for key in TABLE:
            text = _percent(part["table"][key], spread and spread["table"][key])
            if key == "abend" and not sd:
                text += f"±{100 * part['table']['abend_std']:.2f}"
            cells.append(text)
        rows.append([name, *cells])
    return ["", *TABLE.values()], rows


def _generators(content: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, its part of the report, the same part of the sd or None), the main generator first."""
    sd = content.get("sd")
    parts = [(content["setup"]["generate"], content, sd)]
    parts += [(name, part, sd and sd["generators"][name]) for name, part in content["generators"].items()]
    return parts


COLUMNS = {  # of a vote besides its accuracy; those that a report holds are shown
    "nll": "NLL",
    "nll_ts": "NLL, scaled",
    "brier": "Brier",
    "brier_ts": "Brier, scaled",
    "ece": "ECE",
    "ece_ts": "ECE, scaled",
    "aurc": "AURC",
}


def columns(content: dict[str, Any]) -> dict[str, str]:
    """COLUMNS without those that a report of an earlier version has not."""
    return {key: text for key, text in COLUMNS.items() if key in content["votes"]["base"]}


def rows_votes(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Every vote: accuracy in percent, the others plain."""
    rows, keys = [], columns(content)
    for name, part, spread in _generators(content):
        for vote, label in VOTES.items():
            if vote in part["votes"]:
                whose = "" if vote in ("base", "swa", "checkpoints_best", "checkpoints_mean") else f"{name}: "
                own = vote_cells(part["votes"][vote], spread and spread["votes"][vote], list(keys))
                rows.append([whose + label, *own])
    return ["vote", "accuracy %", *keys.values()], rows


def vote_cells(row: dict[str, float], sd: dict[str, float] | None, keys: list[str]) -> list[str]:
    """Its accuracy in percent, then those keys."""
    return [_percent(row["accuracy"], sd["accuracy"] if sd else None), *(number(row, sd, key) for key in keys)]


def number(row: dict[str, Any], sd: dict[str, Any] | None, key: str, form: str = ".4f") -> str:
    """A value with its standard deviation where there is one; undefined: -."""
    if row[key] is None:
        return "-"
    return f"{row[key]:{form}}" + (f" ± {sd[key]:{form}}" if sd and sd[key] is not None else "")


def _percent(value: float, sd: float | None) -> str:
    return f"{100 * value:.2f}" + (f" ± {100 * sd:.2f}" if sd is not None else "")


def verdict(content: dict[str, Any]) -> list[str]:
    """What the run says about the generator and its nulls, in plain sentences."""
    votes, main = content["votes"], content["setup"]["generate"]
    runs = content.get("runs", [content])
    lines = [_difference(f"sBEND over the members of {main}", "the base", [r["votes"] for r in runs], "sbend", "base")]
    for name in content["generators"]:
        rows = [{"own": r["votes"]["sbend"], "other": r["generators"][name]["votes"]["sbend"]} for r in runs]
        lines.append(_difference(f"sBEND over the members of {main}", f"sBEND over {name}", rows, "own", "other"))
    texts = []
    for key in content["test"]:
        p = " / ".join(f"{r['test'][key]:.2g}" for r in runs)
        texts.append(f"{key.removeprefix('sbend_vs_').removesuffix('_mcnemar_p')} {p}")
    by_seed = " (seed by seed)" if len(runs) > 1 else ""
    lines.append(f"McNemar's p of those differences{by_seed}: {', '.join(texts)}.")
    novelty = content["novelty"]
    if novelty["spread"] is not None:
        lines.append(
            f"Members keep {novelty['spread']:.2f} of the checkpoints' spread (1 is all of it); "
            f"{novelty['copy_share']:.0%} of them are copies of a checkpoint."
        )
    change = 100 * (votes["mean"]["nll_ts"] / votes["base"]["nll_ts"] - 1)
    lines.append(f"The members' mean vote has an NLL {change:+.1f}% from the base's, both temperature-scaled.")
    return lines


def _difference(own: str, other: str, rows: list[dict[str, Any]], a: str, b: str) -> str:
    values = [100 * (row[a]["accuracy"] - row[b]["accuracy"]) for row in rows]
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return f"{own} is {mean:+.2f} points from {other} on the same test images."
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{own} is {mean:+.2f} ± {sd:.2f} points from {other} (mean ± sd over {len(values)} seeds)."


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Columns aligned for a terminal."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * w for w in widths], *rows]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def terminal(content: dict[str, Any]) -> str:
    """Table 3's rows, the votes, and what they say."""
    parts = [f"Test accuracy % (k = {content['k']}, m = {content['m']}, {content['setup']['collect']})"]
    parts += [text_table(*rows_table(content)), "", text_table(*rows_votes(content)), "", *verdict(content)]
    return "\n".join(parts)
