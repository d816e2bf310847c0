"""report.json has the keys it promises, its shares are shares, its costs are the paper's, and its faces show it."""

import copy
import math
from pathlib import Path
from typing import Any

import jax
import pytest

from bend_jax.report import document, run_report, tables
from bend_jax.report.records import to_json
from bend_jax.report.words import MEASURES
from bend_jax.run import summary
from bend_jax.run.config import Config
from tests.reports import (
    DIM,
    TABLE,
    K,
    M,
    N,
    check_schema,
    check_shares,
    combined,
    measured,
    report_of,
    seconds,
    settings,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """report.json of one run."""
    return to_json(summary.assemble(settings(), "configs/digits.py", 3, DIM, copy.deepcopy(measured())))


def test_every_promised_key_is_there(content: dict[str, Any]) -> None:
    """With numbers or null."""
    check_schema(content, {"gaussian", "identity"})
    assert [content[key] for key in ("task", "config", "seed", "k", "m", "dim")] == [
        *("digits", "configs/digits.py", 3),
        *(K, M, DIM),
    ]


def test_accuracies_are_shares(content: dict[str, Any]) -> None:
    """And whole numbers of images."""
    check_shares(content, N, M)
    beyond = copy.deepcopy(content)
    beyond["table"]["mean"] = 100 * beyond["table"]["mean"]  # in percent
    with pytest.raises(AssertionError):
        check_shares(beyond, N, M)


# cost


def test_break_even_of_the_papers_numbers() -> None:
    """Table 4: 10,188.5 + 2.35 m = 2800 m at m = 3.64."""
    found = summary.cost(settings(members=100), seconds(235.0))
    fixed = 2800 + 2800 * 2 + 931.39 + 857.14
    assert fixed == pytest.approx(10188.53)
    assert found.break_even_m == pytest.approx(fixed / (2800 - 2.35))
    assert round(found.break_even_m or 0.0, 2) == 3.64
    assert found.t_pre == 2800
    assert found.t_epoch == 28
    assert found.t_collect == 5600
    assert found.t_autoencoder == 931.39
    assert found.t_diffusion == 857.14
    assert found.t_sample == 235
    assert found.t_evaluate == 7
    assert found.compile == 8 + 2 + 1.5 + 2 * 0.25


def test_both_ways_cost_the_same_at_break_even() -> None:
    """Whatever the numbers, with one member's seconds t_sample / members."""
    for members, t_sample, t_pre in [(100, 235.0, 2800.0), (7, 30.0, 10.0), (1, 0.5, 1.0)]:
        m = summary.cost(settings(members=members), seconds(t_sample, t_pre, members)).break_even_m
        assert m is not None
        assert t_pre + 5600 + 931.39 + 857.14 + m * t_sample / members == pytest.approx(m * t_pre)


@pytest.mark.parametrize("t_sample", [2800.0 * 100, 2801.0 * 100])
def test_there_is_no_break_even_where_a_member_costs_as_much_as_a_training(t_sample: float) -> None:
    """null, not a negative number or a division by zero."""
    assert summary.cost(settings(members=100), seconds(t_sample)).break_even_m is None


def test_a_generator_without_training_costs_its_checkpoints() -> None:
    """What was not trained is null and counts as nothing."""
    raw = settings()
    gaussian = {"gaussian": raw.generate.settings["gaussian"]}
    raw_generate = {**vars(raw.generate), "name": "gaussian", "nulls": (), "settings": gaussian}
    config = Config(**{**vars(raw), "generate": type(raw.generate)(**raw_generate)})
    found = summary.cost(config, {k: v for k, v in seconds(0.0, members=M).items() if k != "generate bend"})
    assert found.t_autoencoder is None
    assert found.t_diffusion is None
    assert found.break_even_m == pytest.approx((2800 + 5600) / (2800 - 0.5 / M))


# several seeds


def three(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Three runs that differ in a few numbers."""
    runs = [copy.deepcopy(content) for _ in range(3)]
    for seed, run in enumerate(runs):
        run["seed"] = seed
        run["table"]["sbend"] = (0.5, 0.6, 0.8)[seed]
        run["generators"]["gaussian"]["votes"]["sbend"]["nll"] = (1.0, 2.0, 4.0)[seed]
        run["cost"]["break_even_m"] = (3.5, None, 4.0)[seed]
    return runs


def test_mean_and_standard_deviation_over_seeds(content: dict[str, Any]) -> None:
    """Worked by hand, with n - 1; equal numbers have sd 0; null in one run is null in all."""
    runs = three(content)
    found = combined(runs)
    assert found["seed"] == [0, 1, 2]
    assert found["runs"] == runs
    assert found["table"]["sbend"] == pytest.approx(19 / 30)
    assert found["sd"]["table"]["sbend"] == pytest.approx(math.sqrt((16 + 1 + 25) / 900 / 2))
    nll, sd = (part["generators"]["gaussian"]["votes"]["sbend"]["nll"] for part in (found, found["sd"]))
    assert nll == pytest.approx(7 / 3)
    assert sd == pytest.approx(math.sqrt((16 + 1 + 25) / 9 / 2))
    assert found["table"]["max"] == pytest.approx(content["table"]["max"])
    assert found["sd"]["table"]["max"] == pytest.approx(0, abs=1e-12)
    assert found["cost"]["break_even_m"] is None
    assert found["sd"]["cost"]["break_even_m"] is None
    check_schema(found, {"gaussian", "identity"})
    keys = (
        "table",
        "votes",
        "diversity",
        "novelty",
        "generators",
        "cost",
        "temperatures",
        "tuned",
        "shift",
        "calibrations",
    )
    assert set(found["test"].values()) == {None}
    assert set(found["sd"]) == set(keys)
    for key in keys:
        assert jax.tree.structure(found["sd"][key]) == jax.tree.structure(found[key])


def test_two_seeds(content: dict[str, Any]) -> None:
    """The sd of two numbers is their distance over the square root of two."""
    found = combined([{**content, "seed": s, "table": dict.fromkeys(TABLE, 0.5 + 0.1 * s)} for s in (0, 1)])
    assert found["table"] == dict.fromkeys(TABLE, pytest.approx(0.55))
    assert found["sd"]["table"] == dict.fromkeys(TABLE, pytest.approx(0.1 / math.sqrt(2)))


def test_a_vote_that_an_older_run_lacks_has_no_mean(content: dict[str, Any]) -> None:
    """Whichever run comes first; the votes that both have are there."""
    old = copy.deepcopy(content)
    for part in (old, *old["generators"].values()):
        del part["votes"]["pool"]
    for runs in ([old, content], [content, old]):
        found = combined([{**run, "seed": s} for s, run in enumerate(runs)])
        assert set(found["votes"]) == set(content["votes"]) - {"pool"}
        mean, expected = ({**own["votes"]["mean"]} for own in (found, content))
        for method, own in expected.pop("sets").items():
            assert mean["sets"][method] == (None if own is None else pytest.approx(own))
        del mean["sets"]
        assert mean == pytest.approx(expected)


# records


def test_a_report_read_back_is_written_as_it_was(content: dict[str, Any]) -> None:
    """Of one run, of several seeds, and of an earlier version, which did not measure everything."""
    votes = {
        name: {k: v for k, v in row.items() if k not in ("aurc", "ece_ts")} for name, row in content["votes"].items()
    }
    for one in (content, combined(three(content)), {**content, "votes": votes}):
        assert to_json(report_of(one)) == one


def test_a_report_without_its_votes_is_none(content: dict[str, Any]) -> None:
    """What is missing is named."""
    with pytest.raises(ValueError, match="Report: votes missing"):
        report_of({key: value for key, value in content.items() if key != "votes"})
    with pytest.raises(ValueError, match="Table3: max missing"):
        report_of({**content, "table": {key: value for key, value in content["table"].items() if key != "max"}})
    with pytest.raises(ValueError, match="expected an object"):
        report_of({**content, "cost": 3.0})


# faces


def cells(text: str, first: str) -> list[str]:
    """The cells of the row of a markdown table that begins with this one."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return next(row for row in rows if row[0] == first)


def markdown(content: dict[str, Any]) -> str:
    """report.md."""
    return document.to_markdown(run_report.document(report_of(content)), figures=False)


def test_the_report_of_one_run_renders(content: dict[str, Any]) -> None:
    """As markdown and on a terminal: the numbers of report.json in percent, in tables of equal width."""
    text, shown = markdown(content), tables.terminal(report_of(content))
    assert text.startswith("# digits\n")
    for part in ("`configs/digits.py`", "seed 3", f"k = {K}", f"m = {M}", f"{DIM} numbers", f"{N} test images"):
        assert part in text
    for name in ("bend", "gaussian", "identity"):
        part = content if name == "bend" else content["generators"][name]
        row = cells(text, name)
        assert row[1] == f"{100 * part['table']['sbend']:.2f}"
        assert row[2] == f"{100 * part['table']['abend']:.2f}±{100 * part['table']['abend_std']:.2f}"
        assert row[-1] == f"{100 * part['table']['potential']:.2f}"
        assert f"\n{name}" in shown
    base = content["votes"]["base"]
    columns = tables.columns(report_of(content))
    first = [f"{100 * base['accuracy']:.2f}", f"{base['nll_ts']:.4f}", f"{base['ece_ts']:.4f}"]
    assert cells(text, "base")[1:4] == first
    row = [f"{100 * base['accuracy']:.2f}", *(f"{base[key]:.4f}" for key in columns)]
    assert {"nll", "nll_ts", "brier", "ece"} <= set(columns)
    assert cells(text[text.index("\n## All votes") :], "base")[1:] == row
    assert f"from {content['cost']['break_even_m']:.2f} members on" in text
    assert "None" not in text + shown
    assert "nan" not in text + shown
    shown_tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(shown_tables) == 11
    for table in shown_tables:
        assert len({line.count("|") for line in table}) == 1


def test_null_is_shown_as_a_dash(content: dict[str, Any]) -> None:
    """In the report's tables."""
    changed = copy.deepcopy(content)
    changed["cost"]["break_even_m"] = None
    changed["novelty"]["spread"] = None
    text = markdown(changed)
    assert "There is no break-even" in text
    assert cells(text, MEASURES["spread"])[1] == "-"
    assert tables.terminal(report_of(changed))


def test_the_report_of_several_runs_renders(content: dict[str, Any]) -> None:
    """With mean ± sd where one run has a number."""
    found = combined(three(content))
    text = markdown(found)
    assert "seed 0, 1, 2" in text
    assert cells(text, "bend")[1] == "63.33 ± 15.28"
    assert "2.3333 ± 1.5275" in text
    assert "63.33 ± 15.28" in tables.terminal(report_of(found))
    assert "None" not in text
