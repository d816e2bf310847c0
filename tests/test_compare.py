"""Comparisons: rows are checked before anything runs, share their stages, and say what they cost and differ by."""

import json
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import numpy as np
import pytest

from bend_jax import storage
from bend_jax.checks import SettingsError
from bend_jax.data import sources, splits
from bend_jax.metrics import Interval
from bend_jax.report import comparison, document
from bend_jax.report.content import Comparison, Row
from bend_jax.report.records import to_json
from bend_jax.run import cost as run_cost
from bend_jax.run import pipeline, stages
from bend_jax.run import rows as run_rows
from bend_jax.run.config import parse
from bend_jax.run.context import RunContext, prepare
from bend_jax.run.progress import TrainingLog
from bend_jax.run.stage import StageContext
from bend_jax.training import SILENT
from tests.problems import write_images

ROOT = Path(__file__).parent.parent
N = 60


def raw(**changes: Any) -> dict[str, Any]:
    """A configuration that trains next to nothing."""
    config = run_path(str(ROOT / "tests" / "configs" / "tiny.py"))["get_config"]()
    config.base.epochs, config.base.batch, config.base.milestones, config.members = 2, 30, (), 20
    config.collect.subset, config.collect.k, config.collect.batch = "layer2.0.bn2", 16, 30
    config.collect.views, config.generate.nulls, config.generate.name = 2, "", "gaussian"
    config.update(changes)
    return config.to_dict()


def row(name: str = "base", vote: str = "base", against: str = "", **settings: Any) -> dict[str, Any]:
    """A row of a comparison's file; __ for a dot."""
    changes = {k.replace("__", "."): v for k, v in settings.items()}
    return {"name": name, "vote": vote, "settings": changes, "against": against}


# mistakes

WHOLE = {"collect__name": "boosting", "collect__subset": "*", "generate__name": "identity"}
MISTAKES = {
    "vote": ([row(vote="majority")], "row 'base': unknown vote 'majority'"),
    "setting": ([row(collect__boostrap__lr=1.0)], "row 'base': unknown setting collect.boostrap.lr"),
    "value": ([row(collect__k=0)], "row 'base': collect"),
    "twice": ([row(), row()], "row 'base': there are two rows of this name"),
    "against": ([row(against="longer")], "against='longer' is no row above it; there are none"),
    "greedy": ([row(vote="greedy")], "chooses on validation data and needs evaluate.greedy"),
    "one view": ([row(vote="base_pool")], "base_pool pools the views of the base and needs more than one"),
    "weights of none": ([row(vote="weighted")], "gaussian on trajectory gives members that have none"),
    "weights of generated": ([row(vote="weighted", **{**WHOLE, "generate__name": "gaussian"})], "have none"),
    "weights of too many": ([row(vote="weighted", **WHOLE, members=5)], "members=5 do not match boosting's 16 weights"),
    "key": ([{"name": "a", "votes": "base", "settings": {}}], "row 'a': a row has name, vote, settings"),
    "empty": ([], "the comparison has no rows"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_row_that_cannot_be_is_named(name: str) -> None:
    """In one line, before anything is computed."""
    rows, says = MISTAKES[name]
    with pytest.raises(SettingsError) as error:
        run_rows.read_rows(raw(), rows)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["compare_digits", "compare_cifar10_small"])
def test_the_rows_of_the_comparisons_parse(name: str) -> None:
    """And those of one budget cost about the same; the first is the base."""
    found = run_path(str(ROOT / "configs" / f"{name}.py"))
    rows = run_rows.read_rows(found["get_config"]().to_dict(), found["get_rows"](found["get_config"]()))
    assert rows[0].name == rows[0].vote == "base"
    names = {r.name for r in rows}
    expected = {"base + views", "SWA", "CBNN", "cSGHMC", "deep ensemble", "BEND as published", "tree ensemble"}
    assert all(any(name.startswith(part) for name in names) for part in expected)


# cost


def prepared(tmp_path: Path, vote: str, unseen: int = 0, **settings: Any) -> tuple[run_rows.Row, RunContext]:
    """One row on 60 images, `unseen` of which the base does not see."""
    images = np.random.default_rng(0).integers(0, 255, (N, 8, 8, 1)).astype(np.uint8)
    split = sources.Split(images, np.arange(N, dtype=np.int32) % 10)
    held = sources.Split(images[:unseen], split.labels[:unseen]) if unseen else None
    seen = sources.Split(images[unseen:], split.labels[unseen:])
    (found,) = run_rows.read_rows(raw(), [row(vote=vote, **settings)])
    return found, prepare(found.config, "", 0, tmp_path, splits.Dataset(seen, split, split, 10, held))


def cost(tmp_path: Path, vote: str, unseen: int = 0, **settings: Any) -> dict[str, float]:
    """Of such a row."""
    return run_rows.cost_of(*prepared(tmp_path, vote, unseen, **settings))


def test_costs_of_whole_networks_are_counts(tmp_path: Path) -> None:
    """Trainings and passes of whole networks are whole numbers of the base's epochs and passes."""
    whole = {"collect__subset": "*", "generate__name": "identity"}
    assert cost(tmp_path, "base") == {"training": 2.0, "inference": 1.0}
    found = cost(tmp_path, "mean", **whole, collect__name="independent", collect__k=3)
    assert found == {"training": 6.0, "inference": 3.0}
    cyclical = {"collect__name": "cyclical", "collect__k": 7, "collect__cyclical__per_cycle": 2}
    found = cost(tmp_path, "mean", **whole, **cyclical, evaluate__views="identity,left")
    assert found == {"training": 2.0 + 3 * 4, "inference": 14.0}
    found = cost(tmp_path, "best", **whole, **cyclical)
    assert found == {"training": 14.0, "inference": 1.0}


def test_members_on_one_trunk_cost_their_suffix(tmp_path: Path) -> None:
    """Above one pass and far below m of them; a chosen member costs a pass."""
    found = cost(tmp_path, "mean")
    assert 1 < found["inference"] < 3
    assert 2 < found["training"] < 2 + 16
    assert cost(tmp_path, "best")["inference"] == 1


def test_epochs_count_all_training_images(tmp_path: Path) -> None:
    """A base that sees half of them costs half, and so do the epochs of the collector over the others."""
    assert cost(tmp_path, "base", N // 2)["training"] == pytest.approx(1.0)
    how = {"collect__name": "bootstrap", "generate__name": "identity"}
    whole, cut = (cost(tmp_path, "mean", n, **how)["training"] for n in (0, N // 2))
    assert cut - 1.0 == pytest.approx((whole - 2) / 2)


class SeenError(Exception):
    """The images that a training was given."""


def seen(model: Any, examples: Any, *_: Any, **__: Any) -> Any:
    """In the place of a training."""
    raise SeenError(examples)


def test_the_collector_alone_sees_the_unseen_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is trained on the others; networks that share no base are refused."""
    _, s = prepared(tmp_path, "mean", N // 2)
    assert s.dataset.unseen is not None
    monkeypatch.setattr(stages.training, "train_base", seen)
    own = replace(s.config.collect.algorithm, collect=lambda model, variables, chosen, *rest, **_: seen(model, *rest))
    s = s._replace(config=replace(s.config, collect=replace(s.config.collect, algorithm=own)))
    monkeypatch.setattr(stages.storage, "load_tree", lambda _: {})
    for stage, expected in ((stages.base, s.dataset.train), (stages.collect, s.dataset.unseen)):
        with pytest.raises(SeenError) as error:
            stage(s, StageContext({"base": tmp_path}, tmp_path, SILENT, TrainingLog({}, {}, {}, {})))
        assert expected is not None
        np.testing.assert_array_equal(error.value.args[0].images, expected.images)
    with pytest.raises(SettingsError, match="share no base"):
        prepared(tmp_path, "mean", N // 2, collect__name="independent", collect__subset="*")


def test_the_prefix_and_the_suffix_are_the_whole_pass(tmp_path: Path) -> None:
    """By operations; a subset of the last layer has the smallest suffix."""
    images = np.zeros((N, 8, 8, 1), np.uint8)
    split = sources.Split(images, np.arange(N, dtype=np.int32) % 10)
    sizes = []
    for subset in ("fc", "layer2.0.bn2", "layer2.0.conv2", "*"):
        config = parse(raw())
        config = parse({**raw(), "collect": {**raw()["collect"], "subset": subset}})
        ops = run_cost.operations(prepare(config, "", 0, tmp_path, splits.Dataset(split, split, split, 10)))
        assert 0 < ops.suffix <= ops.forward
        sizes.append(ops.suffix)
    assert sizes == sorted(sizes)
    assert sizes[-1] == pytest.approx(ops.forward, rel=0.01)


# a whole comparison


def trained(workdir: Path) -> dict[str, Any]:
    """A configuration that trains for a little longer, on images beside the work directory."""
    data = {"name": f"npz:{write_images(workdir.with_name('images.npz'))}"}
    return raw(data=data, base={"epochs": 6})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Comparison]:
    """Eleven rows with two seeds: the work directory, what was said, and the report."""
    workdir = tmp_path_factory.mktemp("compare") / "run"
    whole = {"collect__subset": "*", "generate__name": "identity", "collect__k": 3}
    boosting = {**whole, "collect__name": "boosting", "collect__boosting__epochs": 1}
    cycles = {"collect__name": "cyclical", "collect__cyclical__epochs": 1}
    rows = [
        row("base", evaluate__greedy=3),  # one evaluation with the two rows that say the same
        row("base + views", evaluate__views="identity,left"),
        row("tuned", "mean", against="base + views", generate__tune=(0.5, 1.0)),
        row("single", "single", evaluate__greedy=3),
        row("CBNN", "weighted", **boosting),
        row("averaged", "mean", **{**whole, **cycles, "generate__name": "average"}),
        row("greedy", "greedy", evaluate__greedy=3),
        row("views pooled", "base_pool", evaluate__views="identity,left"),
        row("CBNN pooled", "weighted_pool", **boosting),
        row("members pooled", "pool", evaluate__greedy=3),
        row("checkpoints pooled", "checkpoints_pool", evaluate__greedy=3),
    ]
    lines: list[str] = []
    parsed = run_rows.read_rows(trained(workdir), rows)
    content, _ = run_rows.run(parsed, "tiny.py", [0, 1], workdir, lines.append, comparison.RENDERER)
    return workdir, lines, content


@pytest.mark.slow
def test_nothing_is_trained_twice(ran: tuple[Path, list[str], Comparison]) -> None:
    """One base and one trajectory a seed; every row has its evaluation."""
    _, lines, content = ran
    for stage, trained in (("base", 2), ("collect", 6)):
        made = [line for line in lines if line.startswith(f"{stage}: ") and "reused" not in line]
        assert len(made) == trained
    assert [r.name for r in content.rows] == [
        *("base", "base + views", "tuned", "single", "CBNN", "averaged", "greedy"),
        *("views pooled", "CBNN pooled", "members pooled", "checkpoints pooled"),
    ]


@pytest.mark.slow
def test_rows_of_pools(ran: tuple[Path, list[str], Comparison]) -> None:
    """Each is the report's vote of its name, and costs what the mean of the same costs; an evaluation of an earlier
    version, which has none, is told by its folder."""
    workdir, _, content = ran
    rows = {r.name: r for r in content.rows if isinstance(r, Row)}
    pairs = {"views pooled": "base + views", "CBNN pooled": "CBNN"}
    for name, other in pairs.items():
        assert (rows[name].training, rows[name].inference) == (rows[other].training, rows[other].inference)
        assert rows[name].nll != rows[other].nll
    for name in ("views pooled", "CBNN pooled", "members pooled", "checkpoints pooled"):
        assert rows[name].nll_ts == pytest.approx(rows[name].votes[rows[name].vote].nll_ts)
    each = {(rows[name].inference - 1) / more for name, more in (("members pooled", 19), ("checkpoints pooled", 15))}
    assert list(each) == pytest.approx([(rows["greedy"].inference - 1) / 2] * len(each))
    parsed = run_rows.read_rows(trained(workdir), [row("members pooled", "pool", evaluate__greedy=3)])
    context = run_rows.preparing(parsed, "tiny.py", workdir)(parsed[0], 0)
    jobs = pipeline.plan(context)
    tree = storage.load_tree(jobs["evaluate"].path / "predictions")
    for votes in tree["votes"].values():
        votes.pop("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "load_tree", lambda path: tree)
        with pytest.raises(SettingsError, match=r"evaluate-.* is of an earlier version, which had no vote 'pool'"):
            run_rows.measure(parsed[0], context, jobs)


@pytest.mark.slow
def test_the_report_of_a_comparison(ran: tuple[Path, list[str], Comparison]) -> None:
    """Means and sd over seeds of what the stages wrote, and differences to the first row and to the one named."""
    workdir, _, content = ran
    written = storage.read_json(workdir / "report" / "report.json")
    assert written == json.loads(json.dumps(to_json(content)))
    rows = {r["name"]: r for r in written["rows"]}
    assert [run["curves"] for r in written["rows"] for run in r["runs"]] == [None] * 2 * len(rows)
    evaluated = list((workdir / "store").glob("evaluate-*"))
    by_seed: dict[int, list[float]] = {0: [], 1: []}
    for path in evaluated:
        if storage.read_manifest(path)["settings"]["views"] == "identity":
            found = storage.read_json(path / "result.json")["votes"]["base"]["accuracy"]
            by_seed[storage.read_manifest(path)["seed"]].append(found)
    a, b = (set(values) for values in by_seed.values())
    assert len(a) == len(b) == 1  # the same base in every row
    a, b = a.pop(), b.pop()
    assert rows["base"]["accuracy"] == pytest.approx((a + b) / 2)
    assert rows["base"]["accuracy_sd"] == pytest.approx(abs(a - b) / np.sqrt(2))
    assert rows["base"]["vs_base"] is None
    for name in ("tuned", "averaged", "CBNN", "greedy"):
        gap = rows[name]["vs_base"]["accuracy"]
        assert gap["mean"] == pytest.approx(rows[name]["accuracy"] - rows["base"]["accuracy"], abs=1e-9)
        assert gap["low"] <= gap["mean"] <= gap["high"]
        nll = rows[name]["vs_base"]["nll_ts"]
        assert nll["mean"] == pytest.approx(rows[name]["nll_ts"] - rows["base"]["nll_ts"], abs=1e-5)
    against = rows["tuned"]["vs_against"]["accuracy"]["mean"]
    assert against == pytest.approx(rows["tuned"]["accuracy"] - rows["base + views"]["accuracy"], abs=1e-9)
    assert rows["single"]["nll"] is None
    assert rows["single"]["vs_base"]["nll_ts"] is None
    assert rows["averaged"]["inference"] == 1
    text = (workdir / "report" / "report.md").read_text()
    assert "## Against another row" in text
    assert all(f"| {name} |" in text for name in rows)
    shown = document.to_text(comparison.document(content)).splitlines()
    rule = next(i for i, line in enumerate(shown) if line and not line.strip("- "))
    assert shown[rule + 1].startswith("base ")


@pytest.mark.slow
def test_the_weighted_vote_is_boostings(ran: tuple[Path, list[str], Comparison]) -> None:
    """argmax of sum lambda_m p_m, worked out again from the checkpoints."""
    workdir, _, _ = ran
    for path in (workdir / "store").glob("evaluate-*"):
        votes = storage.load_tree(path / "predictions")["votes"]
        if "weighted" not in votes.get("identity", {}):
            continue
        manifest = storage.read_manifest(path)
        collected = storage.load_tree(workdir / "store" / f"collect-{manifest['inputs']['collect']}" / "checkpoints")
        variables = storage.load_tree(workdir / "store" / f"base-{manifest['inputs']['base']}" / "variables")
        settings = trained(workdir)
        dataset = splits.load(parse(settings).data)
        s = prepare(parse({**settings, "collect": {**settings["collect"], "subset": "*"}}), "", 0, workdir, dataset)
        from bend_jax.subset import insert

        x = s.examples.plain(jax.numpy.asarray(dataset.test.images[:50]))
        p = [
            jax.nn.softmax(s.model.apply(insert(s.chosen, variables, jax.numpy.asarray(v)), x))
            for v in collected["vectors"]
        ]
        expected = np.tensordot(collected["weights"] / collected["weights"].sum(), np.stack(p), 1)
        np.testing.assert_allclose(votes["identity"]["weighted"][:50], expected, atol=1e-4)
        return
    raise AssertionError("no row voted with boosting's weights")


def test_a_star_marks_an_interval_without_zero() -> None:
    """Above or below it; one that holds 0 has none."""
    assert comparison._gap(Interval(0.01, 0.002, 0.02), 100, 2) == "+1.00*"
    assert comparison._gap(Interval(-0.01, -0.02, -0.002), 100, 2) == "-1.00*"
    assert comparison._gap(Interval(0.01, -0.002, 0.02), 100, 2) == "+1.00"
    assert comparison._gap(None, 100, 2) == "-"
