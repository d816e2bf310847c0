"""Comparisons: named combinations on one base, their stages shared through the store, and one table over seeds."""

import ast
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

from bend_jax import metrics, storage
from bend_jax.checks import SettingsError, did_you_mean, names
from bend_jax.data import splits
from bend_jax.data.sources import Data
from bend_jax.report import document, tables
from bend_jax.report.comparison import page, rows_csv
from bend_jax.report.document import Document
from bend_jax.report.grid import csv_rows, setting_text
from bend_jax.run import cost, pipeline, summary
from bend_jax.run.config import Config, parse
from bend_jax.run.context import Setting, prepare

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
    if row.vote == "weighted" and (
        not c.collect.algorithm.has_weights or not c.generate.algorithms[c.generate.name].is_all_checkpoints
    ):
        raise SettingsError(
            f"the weighted vote takes boosting's weights of its own checkpoints; {c.generate.name} on "
            f"{c.collect.name} gives members that have none: collect.name=boosting and generate.name=identity"
        )


def run_comparison(
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
    config_name: str, workdir: Path, loaded: dict[Data, splits.Dataset], init: str, row: Row, seed: int
) -> Setting:
    if row.config.data not in loaded:
        loaded[row.config.data] = splits.load(row.config.data)
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
    return tables.text_table(["row", "training, epochs", "inference, forwards"], lines)


def cost_of(row: Row, s: Setting) -> dict[str, float]:
    """training: in epochs of the base's training, all stages that the row's vote needs; inference: in forward passes
    of the base, all members of it (a greedy vote's after it has chosen)."""
    c, ops = row.config, cost.operations(s)
    views, k = len(names(c.evaluate.views)), c.collect.settings.k
    training = cost.base_epochs(s)
    if row.vote != "base":
        training += cost.collect_epochs(s, ops)
    main = c.generate.algorithms[c.generate.name]
    of_members = main.members(c.members, k)
    if row.vote in MEMBERS:
        training += cost.generate_epochs(s, c.generate.name, of_members, ops)
    members = {"mean": of_members, "sbend": of_members, "weighted": of_members, "checkpoints_mean": k}.get(row.vote, 1)
    if row.vote == "greedy":
        members = min(c.evaluate.greedy, of_members)
    return {"training": training, "inference": cost.forwards(ops, members, views)}


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


VOTE = "sbend"  # whose members a combination's cost counts: all of them
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_sweep(known: dict[str, Any], words: list[str]) -> list[dict[str, Any]]:
    """--sweep=setting=value,value as rows of a comparison's file: all combinations, the last setting's values fastest.

    known: every setting and its value, by dotted names. Between values stands a comma, or ; where one holds commas
    itself. Raises SettingsError in one line.
    """
    swept: dict[str, list[Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not text:
            raise SettingsError(f"--sweep takes setting=value,value (; between values that hold commas); got {word!r}")
        if path not in known:
            raise SettingsError(
                f"--sweep: unknown setting {path}{did_you_mean(path, known)}; --print_config lists them all"
            )
        if path in swept:
            raise SettingsError(f"--sweep: {path} is there twice; put all of its values into one")
        parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
        values = [_value(path, part, known[path], ";" in text) for part in parts]
        if len(set(values)) < len(values):
            raise SettingsError(f"--sweep: {path} has a value twice: {text}")
        swept[path] = values
    rows = []
    for values in itertools.product(*swept.values()):
        settings = dict(zip(swept, values, strict=True))
        name = ", ".join(f"{path}={setting_text(value)}" for path, value in settings.items())
        rows.append({"name": name, "vote": VOTE, "settings": settings})
    return rows


def _value(path: str, text: str, now: Any, by_semicolons: bool) -> Any:
    """One value, of the type that the setting has now."""
    kind = type(now)
    try:
        if kind is bool:
            return TRUTHS[text.lower()]
        if kind is tuple:
            found = ast.literal_eval(text)
            if not isinstance(found, tuple):
                raise ValueError
            return found
        return kind(text)
    except (KeyError, ValueError, SyntaxError):
        hint = "" if by_semicolons or kind is not tuple else "; between such values stands a ;"
        raise SettingsError(f"--sweep: {path} takes values of type {kind.__name__}; got {text!r}{hint}") from None


def run_grid(
    rows: list[Row],
    config_name: str,
    seeds: list[int],
    workdir: Path,
    say: Callable[[str], None],
    make: Callable[[dict[str, Any]], Document],
    init: str = "",
) -> tuple[dict[str, Any], Document]:
    """Run every row with every seed and write the document that `make` makes of them. Returns its content and it.

    All rows are checked before the first one runs; stages are shared through the store, so that an interrupted sweep
    goes on. A row that met a NaN or Inf says so under "failed", and the others go on.
    """
    prepared = preparing(rows, config_name, workdir, init)
    prices = [cost_of(row, prepared(row, seeds[0])) for row in rows]
    found: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    cells: dict[str, list[Cell]] = {row.name: [] for row in rows}
    failed: dict[str, str] = {}
    for row, s, jobs in run_rows(rows, seeds, prepared, say):
        if isinstance(jobs, pipeline.StoppedError):
            failed[row.name] = f"seed {s.seed}: {jobs}"
            say(failed[row.name])
        else:
            found[row.name].append(assemble_row(s, jobs))
            cells[row.name].append(measure(row, s, jobs))
    content: dict[str, Any] = {"task": rows[0].config.task, "config": config_name, "seed": seeds, "rows": []}
    for row, price in zip(rows, prices, strict=True):
        own = {"name": row.name, "vote": row.vote, "settings": row.settings, **price, "failed": failed.get(row.name)}
        if row.name not in failed:
            own |= summarise_row(found[row.name])
            both = row.against and row.against not in failed
            own["vs_against"] = difference(cells[row.name], cells[row.against]) if both else None
        content["rows"].append(own)
    made = make(content)
    manifest = {"stage": "sweep", "seeds": content["seed"], "inputs": [row["name"] for row in content["rows"]]}
    document.publish(made, content, csv_rows(content), workdir, manifest)
    return content, made


def assemble_row(s: Setting, jobs: dict[str, pipeline.Job]) -> dict[str, Any]:
    """The report of one row with one seed."""
    wanted = {name: job for name, job in jobs.items() if job.stage in STAGES}
    results = {name: storage.read_json(job.path / "result.json") for name, job in wanted.items()}
    return summary.assemble(s.config, s.config_name, s.seed, s.chosen.dim, results)


def summarise_row(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, "sd" the same tree of standard deviations (None with one seed), and each seed's own."""
    keys = ("k", "m", "dim", "setup", "table", "votes", "diversity", "novelty", "generators", "cost")
    mean = summary.combine(reports) if reports[1:] else {**reports[0], "sd": None}
    own = (*keys, "seed", "curves", "settings")
    return {**{key: mean[key] for key in keys}, "sd": mean["sd"], "runs": [{k: r[k] for k in own} for r in reports]}
