"""Rows of named combinations (a comparison, a sweep, a paper's table): run with every seed, in one report."""

import ast
import copy
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
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
from bend_jax.report import document
from bend_jax.report.comparison import SCORES
from bend_jax.report.content import Comparison, Report, StoppedRow
from bend_jax.report.content import Row as ReportedRow
from bend_jax.report.difference import Difference
from bend_jax.report.document import Document, Renderer
from bend_jax.report.grid import setting_text
from bend_jax.report.text import text_table
from bend_jax.run import config_file, cost, pipeline, summary
from bend_jax.run.config import Config, parse
from bend_jax.run.context import RunContext, prepare

STAGES = ("base", "collect", "generate", "evaluate")
# votes of one net and of the checkpoints: the set that they belong to, and its vote; then those of the members
ALONE = {"base": ("base", "mean"), "base_pool": ("base", "pool"), "swa": ("swa", "mean")}
CHECKPOINTS = {f"checkpoints_{vote}": ("checkpoints", vote) for vote in ("mean", "pool", "best")}
MEMBERS = ("mean", "pool", "sbend", "best", "greedy", "weighted", "weighted_pool", "single")
KEYS = ("name", "vote", "settings", "against")
# what a row of the report takes from the reports of its seeds: their means
MEANS = ("k", "m", "dim", "setup", "table", "votes", "diversity", "novelty", "generators", "cost")
KEPT = 8  # rows whose compiled programs stay in memory; those of all rows would fill it


class Row(NamedTuple):
    """One line of a comparison: a run's configuration, which vote of it counts, and the row it is held against."""

    name: str
    vote: str
    config: Config
    against: str
    settings: dict[str, Any]  # what it changes, by dotted names


class Measured(NamedTuple):
    """What one row measured with one seed; arrays over test images."""

    right: np.ndarray  # share of the voters asked that are right: 0 or 1 for a vote
    loss: np.ndarray | None  # -log p(label) after temperature scaling; None for "single"
    scores: dict[str, float | None]  # of the row's vote, those of SCORES
    report: Report
    digest: str  # of the evaluation


def read_rows(raw: Any, rows: list[dict[str, Any]], given: Collection[str] = ()) -> list[Row]:
    """The rows of a comparison's file, each parsed. given: settings that flags gave, which no preset of a row changes.
    Raises SettingsError naming the row."""
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
            config = parse(own, {*given, *row["settings"]})
            new = Row(name, row["vote"], config, row.get("against", ""), dict(row["settings"]))
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
    if row.vote == "base_pool" and len(names(c.evaluate.views)) < 2:
        raise SettingsError("base_pool pools the views of the base and needs more than one: evaluate.views")
    if row.vote in ("weighted", "weighted_pool") and (
        not c.collect.algorithm.has_weights or not c.generate.algorithms[c.generate.name].is_all_checkpoints
    ):
        raise SettingsError(
            f"the weighted vote takes boosting's weights of its own checkpoints; {c.generate.name} on "
            f"{c.collect.name} gives members that have none: collect.name=boosting and generate.name=identity"
        )


def run(
    rows: list[Row],
    config_name: str,
    seeds: list[int],
    workdir: Path,
    say: Callable[[str], None],
    renderer: Renderer,
    init: str = "",
) -> tuple[Comparison, Document]:
    """Run every row with every seed, and write their report. Returns its content and its document.

    All rows are checked before the first one runs; stages are shared through the store, so that an interrupted run
    goes on. A row that met a NaN or Inf is reported as stopped, and the others go on.
    """
    prepared = preparing(rows, config_name, workdir, init)
    costs = {row.name: cost_of(row, prepared(row, seeds[0])) for row in rows}
    for note in _notes(rows, prepared, seeds[0]):
        say(note)
    measured: dict[str, list[Measured]] = {row.name: [] for row in rows}
    stopped: dict[str, str] = {}
    for row, s, found in run_rows(rows, seeds, prepared, say):
        if isinstance(found, pipeline.StoppedError):
            stopped[row.name] = f"seed {s.seed}: {found}"
            say(stopped[row.name])
        else:
            own = measure(row, s, found)
            report = own.report if renderer.curves else replace(own.report, curves=None)
            measured[row.name].append(own._replace(report=report))
    whole = {name: own for name, own in measured.items() if name not in stopped}
    reported = [
        _reported(row, whole, rows[0].name, costs[row.name])
        if row.name in whole
        else StoppedRow(
            name=row.name, vote=row.vote, settings=row.settings, failed=stopped[row.name], **costs[row.name]
        )
        for row in rows
    ]
    content = Comparison(task=rows[0].config.task, config=config_name, seed=seeds, rows=reported)
    made = renderer.document(content)
    inputs = [own.digest for found in whole.values() for own in found]
    manifest = {"stage": renderer.stage, "seeds": seeds, "inputs": inputs}
    document.publish(made, content, renderer.rows_csv(content), workdir, manifest)
    return content, made


Prepared = Callable[[Row, int], RunContext]


def preparing(rows: list[Row], config_name: str, workdir: Path, init: str = "", *, dry: bool = False) -> Prepared:
    """prepared(row, seed) -> RunContext, with each data set read once. dry: as `sources.read` takes it. Raises
    SettingsError where `init` is one base and the rows train several."""
    keeps = not any(row.config.backbone.init_head for row in rows)
    if init and keeps and any(row.config.base != rows[0].config.base for row in rows):
        raise SettingsError("--init brings one trained base; here are rows that train others")
    return partial(_prepare, config_name, workdir, {}, init, dry)


def run_rows(
    rows: list[Row], seeds: list[int], prepared: Prepared, say: Callable[[str], None]
) -> Iterator[tuple[Row, RunContext, dict[str, pipeline.Job] | pipeline.StoppedError]]:
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


def _notes(rows: list[Row], prepared: Prepared, seed: int) -> list[str]:
    """What a user should know about the rows' data sets, each once."""
    found = [f"{row.config.data.name}: {note}" for row in rows for note in prepared(row, seed).dataset.notes]
    return list(dict.fromkeys(found))


def _prepare(
    config_name: str, workdir: Path, loaded: dict[Data, splits.Dataset], init: str, dry: bool, row: Row, seed: int
) -> RunContext:
    if row.config.data not in loaded:
        loaded[row.config.data] = splits.load(row.config.data, dry=dry)
    try:
        return prepare(row.config, config_name, seed, workdir, loaded[row.config.data], init, dry=dry)
    except SettingsError as error:
        raise SettingsError(f"row {row.name!r}: {error}") from None


def plan(rows: list[Row], config_name: str, workdir: Path, init: str = "") -> str:
    """The rows with what each costs, before anything runs."""
    prepared = preparing(rows, config_name, workdir, init, dry=True)
    lines = []
    for row in rows:
        price = cost_of(row, prepared(row, 0))
        lines.append([row.name, f"{price['training']:.2f}", f"{price['inference']:.2f}"])
    planned = text_table(["row", "training, epochs", "inference, forwards"], lines)
    return "\n".join([*_notes(rows, prepared, 0), planned])


def cost_of(row: Row, s: RunContext) -> dict[str, float]:
    """training: in epochs of the base's training, all stages that the row's vote needs; inference: in forward passes
    of the base, all members of it (a greedy vote's after it has chosen)."""
    c, ops = row.config, cost.operations(s)
    views, k = len(names(c.evaluate.views)), c.collect.settings.k
    training = cost.base_epochs(s)
    if row.vote not in ("base", "base_pool"):
        training += cost.collect_epochs(s, ops)
    main = c.generate.algorithms[c.generate.name]
    of_members = main.members(c.members, k)
    if row.vote in MEMBERS:
        training += cost.generate_epochs(s, c.generate.name, of_members, ops)
    voting = {vote: of_members for vote in MEMBERS if vote not in ("best", "single")}
    voting |= {"checkpoints_mean": k, "checkpoints_pool": k, "greedy": min(c.evaluate.greedy, of_members)}
    members = voting.get(row.vote, 1)
    return {"training": training, "inference": cost.forwards(ops, members, views)}


def measure(row: Row, s: RunContext, jobs: dict[str, pipeline.Job]) -> Measured:
    """One row's figures from its stages."""
    path = jobs["evaluate"].path
    tree = storage.load_tree(path / "predictions")
    results = {name: storage.read_json(job.path / "result.json") for name, job in jobs.items() if job.stage in STAGES}
    report = summary.assemble(s.config, s.config_name, s.seed, s.chosen.dim, results, s.dataset)
    place, vote = _place(row, report.setup.generate)
    if row.vote != "single" and vote not in tree["votes"][place]:
        raise SettingsError(
            f"row {row.name!r}: the evaluation in {path} is of an earlier version, which had no vote {row.vote!r}: "
            "delete that folder to have it computed again"
        )
    right, loss, scores = _score(row, tree, report)
    return Measured(right, loss, scores, report, jobs["evaluate"].digest)


def _place(row: Row, main: str) -> tuple[str, str]:
    """The set that a row's vote belongs to, and the vote."""
    return (ALONE | CHECKPOINTS).get(row.vote, (main, row.vote))


def _score(row: Row, tree: Any, report: Report) -> tuple[np.ndarray, np.ndarray | None, dict[str, float | None]]:
    """`Measured`'s first three: of the row's vote. tree: the evaluation's predictions."""
    labels, main = tree["labels"], report.setup.generate
    of_checkpoints = row.vote in CHECKPOINTS
    spread = report.diversity.checkpoints if of_checkpoints else report.diversity.members
    if row.vote == "single":
        right = (tree["members"] == labels).mean(axis=0)
        return right, None, {"accuracy": float(right.mean()), "disagreement": spread}
    place, vote = _place(row, main)
    p = tree["votes"][place][vote]
    scaled = np.asarray(metrics.scale_temperature(jnp.asarray(p), report.temperatures[place][vote]))
    loss = -np.log(np.maximum(scaled[np.arange(len(labels)), labels], metrics.TINY))
    own = report.votes[row.vote]
    scores = {"accuracy": own.accuracy, "nll": own.nll, "nll_ts": own.nll_ts, "ece": own.ece, "ece_ts": own.ece_ts}
    scores["disagreement"] = None if row.vote in ALONE else spread
    scores["knob"] = report.tuned[main] if row.vote in MEMBERS else None
    return p.argmax(axis=1) == labels, loss, scores


def _reported(row: Row, measured: dict[str, list[Measured]], first: str, price: dict[str, float]) -> ReportedRow:
    """A row of the report: means and standard deviations over seeds, cost, and differences with their intervals.

    measured: of every row that came to its end.
    """
    own = measured[row.name]
    reports = [replace(one.report, training=None) for one in own]  # the loss curves are in each stage's result.json
    mean = summary.combine(reports) if reports[1:] else reports[0]
    return ReportedRow(
        name=row.name,
        vote=row.vote,
        settings=row.settings,
        failed=None,
        vs_base=_difference(own, measured.get(first)) if row.name != first else None,
        vs_against=_difference(own, measured.get(row.against)),
        against=row.against or None,
        sd=mean.sd,
        runs=reports,
        **price,
        **_moments(own),
        **{name: getattr(mean, name) for name in MEANS},
    )


def _moments(measured: list[Measured]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) over seeds of each of SCORES."""
    found: dict[str, Any] = {}
    for key in SCORES:
        values = [one.scores.get(key) for one in measured]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        found[key] = math.fsum(known) / len(known) if whole else None
        found[f"{key}_sd"] = float(np.std(known, ddof=1)) if whole and len(known) > 1 else None
    return found


def _difference(own: list[Measured], other: list[Measured] | None) -> Difference | None:
    """Mean difference and 95% interval of accuracy and of the scaled NLL; None where the other row is none."""
    if other is None:
        return None
    right = np.stack([a.right.astype(float) - b.right for a, b in zip(own, other, strict=True)])
    gaps = [a.loss - b.loss for a, b in zip(own, other, strict=True) if a.loss is not None and b.loss is not None]
    nll = metrics.paired_bootstrap(np.stack(gaps), metrics.DRAWS) if len(gaps) == len(own) else None
    return Difference(accuracy=metrics.paired_bootstrap(right, metrics.DRAWS), nll_ts=nll)


VOTE = "sbend"  # whose members a combination's cost counts: all of them
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_sweep(known: dict[str, Any], words: list[str]) -> list[dict[str, Any]]:
    """--sweep=setting=value,value as rows of a comparison's file: all combinations, the last setting's values fastest.

    known: every setting and its value, by dotted names; the last part of a name does where it is that of one setting
    (k: collect.k). Between values stands a comma, or ; where one holds commas
    itself. Raises SettingsError in one line.
    """
    swept: dict[str, list[Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not text:
            raise SettingsError(f"--sweep takes setting=value,value (; between values that hold commas); got {word!r}")
        meant = config_file.meant(path, known)
        if len(meant) != 1:
            hint = f" (is it {' or '.join(meant[:3])}?)" if meant else did_you_mean(path, known)
            raise SettingsError(f"--sweep: unknown setting {path}{hint}; --print_config lists them all")
        (path,) = meant
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
