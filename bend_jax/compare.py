"""Comparisons: named combinations on one base, their stages shared through the store, and one table over seeds."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import budget, data, document, figures, metrics, pipeline, report, storage
from bend_jax.checks import SettingsError, did_you_mean
from bend_jax.config import Config, Data, names, parse
from bend_jax.setting import Setting, prepare
from bend_jax.settings import count_members

STAGES = ("base", "collect", "generate", "evaluate")
ALONE = {"base": "base", "swa": "swa"}  # votes of one net, and the set that they belong to
CHECKPOINTS = {"checkpoints_mean": "mean", "checkpoints_best": "best"}
MEMBERS = ("mean", "sbend", "best", "greedy", "weighted", "single")
KEYS = ("name", "vote", "settings", "against")
KEPT = 8  # rows whose compiled programs stay in memory; those of all rows would fill it


class Row(NamedTuple):
    """One line of a comparison: a run's configuration, which vote of it counts, and the row it is held against."""

    name: str
    vote: str
    config: Config
    against: str
    settings: dict[str, Any]  # what it changes, by dotted names


class Cell(NamedTuple):
    """What one row measured with one seed; arrays over test images."""

    right: np.ndarray  # share of the voters asked that are right: 0 or 1 for a vote
    loss: np.ndarray | None  # -log p(label) after temperature scaling; None for "single"
    scores: dict[str, float | None]


def read_rows(raw: Any, rows: list[dict[str, Any]]) -> list[Row]:
    """The rows of a comparison's file, each parsed. Raises SettingsError naming the row."""
    found: list[Row] = []
    for row in rows:
        name = str(row.get("name", "?"))
        try:
            unknown = set(row) - set(KEYS)
            if unknown or not {"name", "vote", "settings"} <= set(row):
                raise SettingsError(f"a row has name, vote, settings and, if wanted, against; got {', '.join(row)}")
            own = copy.deepcopy(raw)
            for path, value in row["settings"].items():
                _override(own, path, value)
            new = Row(name, row["vote"], parse(own), row.get("against", ""), dict(row["settings"]))
            _check(new, [r.name for r in found])
        except SettingsError as error:
            raise SettingsError(f"row {name!r}: {error}") from None
        found.append(new)
    if not found:
        raise SettingsError("the comparison has no rows")
    return found


def _override(raw: Any, path: str, value: Any) -> None:
    *groups, last = path.split(".")
    node = raw
    for group in groups:
        node = node.get(group, {})
    if last not in node:
        raise SettingsError(f"unknown setting {path}{did_you_mean(last, list(node))}")
    node[last] = value


def _check(row: Row, before: list[str]) -> None:
    c, votes = row.config, (*ALONE, *CHECKPOINTS, *MEMBERS)
    if row.vote not in votes:
        raise SettingsError(f"unknown vote {row.vote!r}{did_you_mean(row.vote, votes)}; there are {', '.join(votes)}")
    if row.name in before:
        raise SettingsError("there are two rows of this name")
    if row.against and row.against not in before:
        raise SettingsError(f"against={row.against!r} is no row above it; there are {', '.join(before) or 'none'}")
    if row.vote == "greedy" and not c.evaluate.greedy:
        raise SettingsError("the greedy vote chooses on validation data and needs evaluate.greedy of at least 1")
    if row.vote == "weighted" and (c.collect.name != "boosting" or c.generate.name != "identity"):
        raise SettingsError(
            f"the weighted vote takes boosting's weights of its own checkpoints; {c.generate.name} on "
            f"{c.collect.name} gives members that have none: collect.name=boosting and generate.name=identity"
        )


def run(
    rows: list[Row], config_name: str, seeds: list[int], workdir: Path, say: Callable[[str], None], init: str = ""
) -> dict[str, Any]:
    """Run every row with every seed, and write the comparison's report. Returns its content."""
    prepared = preparing(rows, config_name, workdir, init)
    cells: dict[str, list[Cell]] = {row.name: [] for row in rows}
    digests: list[str] = []
    cost = [cost_of(row, prepared(row, seeds[0])) for row in rows]
    for row, s, jobs in run_rows(rows, seeds, prepared, say):
        if isinstance(jobs, pipeline.StoppedError):
            raise jobs
        cells[row.name].append(measure(row, s, jobs))
        digests.append(jobs["evaluate"].digest)
    content = {"task": rows[0].config.task, "config": config_name, "seed": seeds}
    content["rows"] = [_summary(row, cells, price) for row, price in zip(rows, cost, strict=True)]
    manifest = {"stage": "compare", "seeds": seeds, "inputs": digests}
    document.publish(page(content), content, rows_csv(content), workdir, manifest)
    return content


Prepared = Callable[[Row, int], Setting]


def preparing(rows: list[Row], config_name: str, workdir: Path, init: str = "") -> Prepared:
    """prepared(row, seed) -> Setting, with each data set read once. Raises SettingsError where `init` is one base and
    the rows train several."""
    if init and any(row.config.base != rows[0].config.base for row in rows):
        raise SettingsError("--init brings one trained base; here are rows that train others")
    return partial(_prepare, config_name, workdir, {}, init)


def run_rows(
    rows: list[Row], seeds: list[int], prepared: Prepared, say: Callable[[str], None]
) -> Iterator[tuple[Row, Setting, dict[str, pipeline.Job] | pipeline.StoppedError]]:
    """Every row with every seed, their stages shared through the store. A row that met a NaN or Inf gives its error in
    the place of its stages."""
    for number, (seed, row) in enumerate(itertools.product(seeds, rows), start=1):
        say(f"seed {seed}, {row.name}")
        s = prepared(row, seed)
        try:
            found = pipeline.run(s, STAGES, say)
        except pipeline.StoppedError as error:
            found = error
        yield row, s, found
        if number % KEPT == 0:
            jax.clear_caches()


def _prepare(
    config_name: str, workdir: Path, loaded: dict[Data, data.Dataset], init: str, row: Row, seed: int
) -> Setting:
    if row.config.data not in loaded:
        loaded[row.config.data] = data.load(row.config.data)
    try:
        return prepare(row.config, config_name, seed, workdir, loaded[row.config.data], init)
    except SettingsError as error:
        raise SettingsError(f"row {row.name!r}: {error}") from None


def plan(rows: list[Row], config_name: str, workdir: Path) -> str:
    """The rows with what each costs, before anything runs."""
    prepared = preparing(rows, config_name, workdir)
    lines = []
    for row in rows:
        price = cost_of(row, prepared(row, 0))
        lines.append([row.name, f"{price['training']:.2f}", f"{price['inference']:.2f}"])
    return report.text_table(["row", "training, epochs", "inference, forwards"], lines)


def cost_of(row: Row, s: Setting) -> dict[str, float]:
    """training: in epochs of the base's training, all stages that the row's vote needs; inference: in forward passes
    of the base, all members of it (a greedy vote's after it has chosen)."""
    c, ops = row.config, budget.operations(s)
    views, k = len(names(c.evaluate.views)), c.collect.settings.k
    training = budget.base_epochs(s)
    if row.vote != "base":
        training += budget.collect_epochs(s, ops)
    of_members = count_members(c.generate.name, c.members, k)
    if row.vote in MEMBERS:
        training += budget.generate_epochs(s, c.generate.name, of_members, ops)
    members = {"mean": of_members, "sbend": of_members, "weighted": of_members, "checkpoints_mean": k}.get(row.vote, 1)
    if row.vote == "greedy":
        members = min(c.evaluate.greedy, of_members)
    return {"training": training, "inference": budget.forwards(ops, members, views)}


def measure(row: Row, s: Setting, jobs: dict[str, pipeline.Job]) -> Cell:
    """One row's figures from its stages."""
    path = jobs["evaluate"].path
    tree, result = storage.load_tree(path / "predictions"), storage.read_json(path / "result.json")
    labels, main = tree["labels"], s.config.generate.name
    spread = None if row.vote in ALONE else result["diversity"]["checkpoints" if row.vote in CHECKPOINTS else "members"]
    if row.vote == "single":
        right = (tree["members"] == labels).mean(axis=0)
        return Cell(right, None, {"accuracy": float(right.mean()), "disagreement": spread})
    knob = storage.read_json(jobs[f"generate {main}"].path / "result.json")["knob"] if row.vote in MEMBERS else None
    place = {**ALONE, **dict.fromkeys(CHECKPOINTS, "checkpoints")}.get(row.vote, main)
    vote = "mean" if row.vote in ALONE else CHECKPOINTS.get(row.vote, row.vote)
    p, scored = tree["votes"][place][vote], result["votes"][row.vote]
    scaled = np.asarray(metrics.scale_temperature(jnp.asarray(p), result["temperatures"][place][vote]))
    loss = -np.log(np.maximum(scaled[np.arange(len(labels)), labels], metrics.TINY))
    scores = {key: scored[key] for key in ("accuracy", "nll", "nll_ts", "ece", "ece_ts")}
    return Cell(p.argmax(axis=1) == labels, loss, {**scores, "disagreement": spread, "knob": knob})


def _summary(row: Row, cells: dict[str, list[Cell]], price: dict[str, float]) -> dict[str, Any]:
    """A row of the report: means and standard deviations over seeds, cost, and differences with their intervals."""
    own, first = cells[row.name], next(iter(cells))
    keys = ("accuracy", "nll", "nll_ts", "ece", "ece_ts", "disagreement", "knob")
    values = {key: [cell.scores.get(key) for cell in own] for key in keys}
    summary: dict[str, Any] = {"name": row.name, "vote": row.vote, **price}
    for key, found in values.items():
        known = [v for v in found if v is not None]
        whole = len(known) == len(own)
        summary[key] = math.fsum(known) / len(known) if whole else None
        summary[f"{key}_sd"] = float(np.std(known, ddof=1)) if whole and len(known) > 1 else None
    for name, other in (("base", first), ("against", row.against)):
        summary[f"vs_{name}"] = difference(own, cells[other]) if other and other != row.name else None
    summary["against"] = row.against or None
    return summary


def difference(own: list[Cell], other: list[Cell]) -> dict[str, Any]:
    """Mean difference and 95% interval of accuracy and of the scaled NLL."""
    right = np.stack([a.right.astype(float) - b.right for a, b in zip(own, other, strict=True)])
    result: dict[str, Any] = {"accuracy": metrics.paired_bootstrap(right, metrics.DRAWS)._asdict(), "nll_ts": None}
    losses = [(a.loss, b.loss) for a, b in zip(own, other, strict=True)]
    if all(a is not None and b is not None for a, b in losses):
        gaps = np.stack([a - b for a, b in losses])  # pyright: ignore[reportOptionalOperand]
        result["nll_ts"] = metrics.paired_bootstrap(gaps, metrics.DRAWS)._asdict()
    return result


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
    return "\n".join([report.text_table(*table(content)), "", NOTE, *(["", *against_rows(content)])])
