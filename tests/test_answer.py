"""The first screen of a report: what it answers in every case, in words, and that all else is a link away."""

import copy
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from bend_jax.data.sources import Split
from bend_jax.data.splits import Dataset
from bend_jax.metrics import Interval
from bend_jax.report import answer, document, latent_maps, run_report, tables
from bend_jax.report.answer import Answer, Gap, Voter
from bend_jax.report.content import Cost, Diversity, Novelty
from bend_jax.report.records import to_json
from bend_jax.report.words import MEASURES, REST, SCORES
from bend_jax.run import summary
from tests.reports import DIM, N, Page, combined, measured, report_of, settings

SURE, NOTHING = Interval(0.0076, 0.0041, 0.0112), Interval(0.0, 0.0, 0.0)
NARROW, WIDE = Interval(0.001, -0.002, 0.004), Interval(0.001, -0.03, 0.032)
LESS, MORE = Interval(-0.02, -0.03, -0.01), Interval(0.02, 0.01, 0.03)


def turned(own: Interval) -> Interval:
    """The other way round."""
    return Interval(-own.mean, -own.high, -own.low)


def voter(name: str, accuracy: float, nll: float, gap: Gap | None = None) -> Voter:
    """Of one seed."""
    return Voter(name, [accuracy], [nll], [0.01], gap)


def said(gap: Gap | None, *stand_ins: Voter, images: int = 5000, base: str = "base", nll: float = 0.178) -> str:
    """The line of an ensemble of 94.15%."""
    own = voter("opinion pool", 0.9415, nll)
    return answer.line(Answer(images, own, voter(base, 0.9339, 0.2, gap), list(stand_ins)))


def stand_in(name: str, accuracy: Interval, nll: Interval, p: float = 0.01) -> Voter:
    """What the ensemble is minus it."""
    return voter(name, 0.94, 0.2, Gap(accuracy, nll, [p]))


GAIN = "Ensemble 94.15%, base 93.39%: +0.76 points (95% CI +0.41 to +1.12)"
CASES = {
    "gain": (Gap(SURE, LESS, [1e-4]), {}, f"{GAIN}; NLL -11%; no stand-in was run."),
    "one of two seeds": (Gap(SURE, LESS, [1e-4, 0.9]), {}, f"{GAIN}; NLL -11%; no stand-in was run."),
    "loss": (
        Gap(turned(SURE), MORE, [1e-4]),
        {"nll": 0.206},
        "Ensemble 94.15%, base 93.39%: -0.76 points (95% CI -1.12 to -0.41), a loss; NLL +3.0%, worse; no stand-in was "
        "run.",
    ),
    "noise": (
        Gap(NARROW, Interval(-0.001, -0.003, 0.001), [0.4]),
        {"nll": 0.199},
        "Ensemble 94.15%, base 93.39%: +0.10 points (95% CI -0.20 to +0.40), not distinguishable: 5000 test images "
        "show differences from about 0.3 points on; NLL -0.5%, not distinguishable; no stand-in was run.",
    ),
    "too few images": (
        Gap(WIDE, LESS, [1.0]),
        {"images": 200},
        "Ensemble 94.15%, base 93.39%: +0.10 points (95% CI -3.00 to +3.20), not distinguishable: 200 test images show "
        "differences from about 3.1 points on; NLL -11%; no stand-in was run.",
    ),
    "four images differ": (
        Gap(Interval(0.02, 0.005, 0.04), LESS, [0.125]),
        {"images": 200},
        "Ensemble 94.15%, base 93.39%: +2.00 points (95% CI +0.50 to +4.00), not distinguishable: 200 test images show "
        "differences from about 1.8 points on; NLL -11%; no stand-in was run.",
    ),
    "nothing differs": (
        Gap(NOTHING, LESS, [1.0]),
        {},
        "Ensemble 94.15%, base 93.39%: +0.00 points, both are right on the same 5000 test images; NLL -11%; no "
        "stand-in was run.",
    ),
    "nothing differs on few": (
        Gap(NOTHING, LESS, [1.0]),
        {"images": 60},
        "Ensemble 94.15%, base 93.39%: +0.00 points, both are right on the same 60 test images, too few to exclude 5.0 "
        "points; NLL -11%; no stand-in was run.",
    ),
    "earlier": (
        None,
        {},
        "Ensemble 94.15%, base 93.39%: +0.76 points, without an interval (evaluated by an earlier version); NLL -11%; "
        "no stand-in was run.",
    ),
    "given": (
        Gap(SURE, None, []),
        {"base": "best member on validation"},
        "Ensemble 94.15%, best member on validation 93.39%: +0.76 points (95% CI +0.41 to +1.12); NLL -11%.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_line_is_honest_in_every_case(case: str) -> None:
    """To the letter."""
    gap, more, expected = CASES[case]
    assert said(gap, **more) == expected


TINY = Interval(-0.0001, -0.0002, -0.00005)  # of an NLL of 0.2: told by the images, and nothing to anybody
STAND_INS = {
    "the stand-in a does the same.": [stand_in("a", NARROW, TINY)],
    "the stand-ins a and b do the same.": [stand_in(x, NARROW, TINY) for x in "ab"],
    "the stand-in a does better.": [stand_in("a", turned(SURE), TINY)],
    "the stand-in b does better in NLL, the stand-ins a, c and d do the same.": [
        stand_in("a", NARROW, TINY),
        stand_in("b", NARROW, MORE),
        *(stand_in(x, NARROW, TINY) for x in "cd"),
    ],
    "the stand-in a does less well in NLL.": [stand_in("a", NARROW, LESS)],
    "the stand-in a does less well.": [stand_in("a", SURE, LESS)],
    "the stand-in a is better in one and worse in the other.": [stand_in("a", SURE, MORE)],
    "the stand-in a cannot be told from it.": [stand_in("a", WIDE, TINY)],
    "the stand-in b cannot be told from it.": [stand_in("b", SURE._replace(high=0.02), TINY, p=0.06)],
    "the stand-in a has no interval.": [voter("a", 0.9, 0.2)],
}


@pytest.mark.parametrize("expected", STAND_INS)
def test_what_stand_ins_do_is_told_by_both_intervals(expected: str) -> None:
    """An NLL that moves by less than a hundredth of itself counts for nothing."""
    assert said(Gap(SURE, LESS, [1e-4]), *STAND_INS[expected]) == f"{GAIN}; NLL -11%; {expected}"


def test_an_interval_over_seeds_covers_seeds_and_images() -> None:
    """The wider on either side: Student's with one degree of freedom, and the seeds' own on average."""
    apart = [Interval(0.01, 0.0, 0.02), Interval(0.03, 0.02, 0.04)]
    found = answer.over_seeds(apart)
    half = 12.7062 * 0.01
    assert found == pytest.approx((0.02, 0.02 - half, 0.02 + half), rel=1e-4)
    alike = [Interval(0.02, -0.01, 0.05), Interval(0.02, 0.0, 0.06)]
    assert answer.over_seeds(alike) == pytest.approx((0.02, -0.005, 0.055))
    assert answer.over_seeds(apart[:1]) == apart[0]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """report.json of one run."""
    found = summary.assemble(settings(), "configs/digits.py", 3, DIM, copy.deepcopy(measured()))
    stages = {name: {"seconds": 4000.004, "versions": {}} for name in ("base", "collect", "evaluate")}
    return to_json(summary.with_stages(found, stages, dict.fromkeys(stages, "x")))


def first(content: dict[str, Any]) -> dict[str, list[str]]:
    """The rows of the first table."""
    found = run_report.document(report_of(content))
    (own, *_) = (block for block in found.blocks if isinstance(block, document.Table))
    return {row[0]: row[1:] for row in own.rows}


@pytest.mark.parametrize("vote", ["mean", "pool"])
def test_the_vote_that_validation_chose_is_in_the_first_line_and_table(content: dict[str, Any], vote: str) -> None:
    """With the base beside it, and every difference with its interval and its p."""
    chosen = {**content, "vote": vote}
    rows, own = first(chosen), content["votes"][vote]
    assert rows["ensemble"][:3] == [
        f"{100 * own['accuracy']:.2f}",
        f"{own['nll_ts']:.4f}",
        f"{own['ece_ts']:.4f}",
    ]
    gap = content["differences"][f"{vote}_vs_base"]
    mean, low, high = (100 * gap["accuracy"][x] for x in ("mean", "low", "high"))
    assert rows["base"][3:5] == [f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", f"{gap['mcnemar_p']:.2g}"]
    line = answer.line(answer.of_run(report_of(chosen)))
    assert line.startswith(f"Ensemble {100 * own['accuracy']:.2f}%, base {rows['base'][0]}%: {mean:+.2f} points")
    for face in (document.to_markdown(run_report.document(report_of(chosen)), figures=False),):
        assert face.startswith(f"# digits\n\n**{line}**\n")
    assert tables.terminal(report_of(chosen)).startswith(f"{line}\n")
    with_views = {**chosen, "votes": {**content["votes"], "base_pool": {**own, "accuracy": 0.125}}}
    name = {"mean": "base", "pool": "base, opinion pool of its views"}[vote]
    assert (first(with_views)[name][0] == "12.50") == (vote == "pool")
    assert ", base 12.50%" in answer.line(answer.of_run(report_of(with_views))) or vote == "mean"


def test_seeds_whose_validation_images_chose_other_votes_have_each_its_own(content: dict[str, Any]) -> None:
    """The mean over them; a report of an earlier version has the mean of probabilities without an interval."""
    runs = [{**content, "seed": seed, "vote": vote} for seed, vote in enumerate(("mean", "pool"))]
    found = answer.of_run(report_of(combined(runs)))
    assert found.ensemble.name == answer.SEVERAL
    assert found.ensemble.nll == [content["votes"][vote]["nll_ts"] for vote in ("mean", "pool")]
    assert found.base.gap is not None
    assert found.base.gap.p == [content["differences"][f"{vote}_vs_base"]["mcnemar_p"] for vote in ("mean", "pool")]
    old = {key: value for key, value in content.items() if key not in ("vote", "differences")}
    found = answer.of_run(report_of(old))
    assert found.ensemble.accuracy == [content["votes"]["mean"]["accuracy"]]
    assert found.base.gap is None
    assert "earlier version" in tables.terminal(report_of(old))


def test_every_p_stands_with_its_difference_and_interval(content: dict[str, Any]) -> None:
    """Of all three votes against the base and every null; over seeds, seed by seed."""
    found = tables.differences(report_of(content))
    assert found is not None
    rows = {row[0]: row[1:] for row in found.rows}
    assert len(rows) == 3 * 3
    points, p, nll = rows["sBEND less that of gaussian"]
    assert re.fullmatch(r"[+-]\d+\.\d\d \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\]", points)
    assert (p, nll) == (f"{content['test']['sbend_vs_gaussian_mcnemar_p']:.2g}", "-")
    assert re.fullmatch(r"[+-]\d\.\d{4} \[[+-]\d\.\d{4}, [+-]\d\.\d{4}\]", rows["opinion pool less the base"][2])
    both = tables.differences(report_of(combined([content, {**content, "seed": 4}])))
    assert both is not None
    assert {row[0]: row[2] for row in both.rows}["sBEND less that of gaussian"] == f"{p} / {p}"


def test_the_cost_adds_up(content: dict[str, Any]) -> None:
    """As it is shown: parts, what is left of all stages, the sum."""
    *parts, (last, whole, _) = tables.costs(report_of(content))
    shown = [round(seconds, 2) for _, seconds, _ in parts if seconds is not None]
    assert last == "sum"
    assert whole == pytest.approx(sum(shown), abs=1e-9)
    assert whole == pytest.approx(12000)
    assert ({text: seconds for text, seconds, _ in parts}[REST] or 0) > 0
    resumed = {**content, "stages": {"base": {"seconds": 1.0, "folder": "x"}}}
    *parts, (_, whole, _) = tables.costs(report_of(resumed))
    assert whole == pytest.approx(sum(seconds or 0.0 for _, seconds, _ in parts))


def test_the_page_speaks_in_words_and_says_each_number_once(content: dict[str, Any]) -> None:
    """No name of a field before the settings; the error IoU with checkpoints stands in report.json under two names."""
    changed = copy.deepcopy(content)
    changed["diversity"]["iou_cross"] = 0.1234
    text = document.to_markdown(run_report.document(report_of(changed)), figures=False)
    text = text[: text.index("\n## Settings")]
    names = {own.name for kind in (Cost, Diversity, Novelty) for own in fields(kind)} | set(SCORES)
    wrong = [name for name in names if "_" in name and name in text]
    assert not wrong
    assert not re.search(r"\b(swa|sbend|abend)\b", text)
    assert "0.1234" not in text
    assert set(MEASURES) == {own.name for kind in (Diversity, Novelty) for own in fields(kind)} - {"iou_cross"}


def test_what_the_data_lacks_is_said_before_any_number(content: dict[str, Any]) -> None:
    """In the report too, not on the terminal alone."""
    part = Split(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32))
    dataset = Dataset(part, part, part, 3, notes=("the test split has no image of class 2",))
    results = copy.deepcopy(measured())
    made = run_report.document(summary.assemble(settings(), "configs/digits.py", 3, DIM, results, dataset))
    assert content["setup"].get("notes") is None
    assert made.blocks[0] == document.Text("Of the data: the test split has no image of class 2.")


def test_all_behind_the_first_screen_is_folded_and_a_link_away(content: dict[str, Any]) -> None:
    """Links lead into the folded part, so that a browser opens it without a script."""
    text = document.to_html(run_report.document(report_of(content)), {})
    page = Page(text)
    links = [own["href"] for tag, own in page.tags if tag == "a" and (own.get("href") or "").startswith("#")]
    inside = re.findall(r"<details>\n<summary><h2>.*?</h2></summary>\n<div class=\"section\" id=\"([^\"]+)\">", text)
    assert links == [f"#{name}" for name in inside]
    assert len(inside) == len(page.text["h2"]) > 5
    assert "<details open" not in text
    assert text.index('class="answer"') < text.index("<nav") < text.index("<table") < text.index("<details>")


def test_pca_reads_nothing_off_a_few_percent_of_the_variance() -> None:
    """Of points on a line it does."""
    line = np.outer(np.arange(9.0), np.ones(40))
    cloud = np.random.default_rng(0).normal(size=(90, 40))
    meant = []
    for points in (line, cloud):
        (pca, *_) = latent_maps.figures(dict.fromkeys(("noised", "checkpoints", "members"), points))
        meant.append(pca.sentence)
    assert "100% of their variance: members in one spot have collapsed" in meant[0]
    assert "no copy shows" in meant[1]
    assert "copy" not in meant[0]


def test_a_tally_counts_gains_and_losses() -> None:
    """Of ensembles with an interval."""
    gaps = [Gap(SURE, LESS, []), Gap(turned(SURE), LESS, []), Gap(NARROW, MORE, []), Gap(SURE, None, [0.2]), None]
    found = [Answer(N, voter("mean", 0.9, 0.2), voter("base", 0.9, 0.2, gap), []) for gap in gaps]
    text = answer.tally(found)
    assert text.startswith("Of 4 ensembles 1 are more accurate than their base and 1 less; 2 have less NLL and 1 more;")
    assert answer.tally(found[-1:]) == ""
