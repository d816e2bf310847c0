"""Conformal sets: against MAPIE and torchcp, against the definitions by label, and the law of their coverage."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bend_jax import conformal
from bend_jax.checks import SettingsError

# 19 calibration images and 12 others, in 1/10000, and MAPIE 1.6.0's sets of the latter at a coverage of 0.8 and of 0.9:
# SplitConformalClassifier(prefit=True), LACConformityScore(), and APSConformityScore() with
# include_last_label="randomized" and a random_state whose uniform numbers are all 1, which is the score at u = 0
P = np.array(
    [
        *([2179, 4314, 1953, 1554], [3678, 2135, 3786, 401], [7, 841, 688, 8464], [2197, 3013, 3272, 1518]),
        *([2211, 3546, 1286, 2957], [336, 1841, 1034, 6789], [1341, 1684, 2612, 4363], [2712, 1750, 5268, 270]),
        *([3554, 3, 6349, 94], [540, 7179, 190, 2091], [2153, 277, 2234, 5336], [2106, 6640, 1207, 47]),
        *([6150, 29, 550, 3271], [6793, 1024, 1569, 614], [2690, 2672, 1095, 3543], [49, 2816, 3536, 3599]),
        *([82, 5914, 1377, 2627], [6157, 2927, 233, 683], [1030, 2330, 3338, 3302]),
        *([1331, 2680, 5654, 335], [1811, 2010, 5635, 544], [4845, 3639, 374, 1142], [2381, 6021, 30, 1568]),
        *([2147, 373, 4846, 2634], [2605, 260, 1441, 5694], [6792, 674, 1925, 609], [5407, 524, 8, 4061]),
        *([1792, 394, 790, 7024], [1851, 2935, 705, 4509], [2698, 3951, 2457, 894], [5905, 243, 3764, 88]),
    ]
)
LABELS = np.array([1, 2, 3, 3, 3, 3, 1, 0, 0, 1, 3, 0, 3, 2, 1, 2, 1, 1, 1])
MAPIE = {
    ("lac", 0.8): "0110 0010 1100 1100 1011 1001 1000 1001 0001 0101 1110 1010",
    ("lac", 0.9): "0110 1110 1100 1100 1011 1001 1010 1001 1001 1101 1110 1010",
    ("aps", 0.8): "0110 0110 1100 1100 0011 1001 1000 1001 0001 0101 1100 1010",
    ("aps", 0.9): "0110 0110 1100 1100 0011 1001 1010 1001 0001 0101 1110 1010",
}
# and torchcp 1.2.1's, whose uniform numbers were all 1 too: SplitPredictor(RAPS(penalty=0.1, kreg=2)) and
# ClassConditionalPredictor(LAC()); its sets of LAC and APS are MAPIE's
TORCHCP = {
    ("raps", 0.8): "0110 0110 1100 1100 0011 1001 1010 1001 1001 0101 1100 1010",
    ("class_conditional", 0.5): "0010 0010 1100 0100 0010 0001 1000 1001 0001 0101 0100 1010",
    ("class_conditional", 0.6): "0110 0010 1100 1100 1010 1001 1010 1001 0001 0101 1110 1010",
}
OTHERS = MAPIE | TORCHCP


@pytest.mark.parametrize(("method", "coverage"), OTHERS)
def test_sets_are_those_of_mapie_and_torchcp(method: str, coverage: float) -> None:
    """Label by label."""
    p = (P / 10000).astype(np.float32)
    found = conformal.sets(conformal.calibrate(p[:19], LABELS), conformal.scores(p[19:]), method, coverage)
    assert " ".join("".join(map(str, row.astype(int))) for row in found) == OTHERS[method, coverage]


def test_scores_are_their_definitions_also_where_probabilities_tie() -> None:
    """In loops over labels; two labels of one probability do not count as above each other, in any order of classes."""
    rng = np.random.default_rng(0)
    p = rng.integers(0, 4, (50, 6)) + 0.01
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    found = conformal.scores(p)
    for row, lac, aps, raps in zip(p, *(found[rule] for rule in ("lac", "aps", "raps")), strict=True):
        for label, own in enumerate(row):
            above = [float(other) for other in row if other > own]
            assert lac[label] == pytest.approx(1 - own, abs=1e-6)
            assert aps[label] == pytest.approx(sum(above), abs=1e-6)
            penalty = conformal.PENALTY * max(0, len(above) + 1 - conformal.FREE)
            assert raps[label] == pytest.approx(sum(above) + penalty, abs=1e-6)
    turned = conformal.scores(p[:, ::-1])
    assert all(np.array_equal(turned[rule][:, ::-1], own) for rule, own in found.items())


def test_the_mass_above_is_summed_without_rounding_also_over_many_classes() -> None:
    """To half a unit in float32's last place, which a sum in float32 misses."""
    p = np.random.default_rng(0).dirichlet(np.ones(5000))[None].astype(np.float32)
    ranked = -np.sort(-p[0])
    exact = [math.fsum(map(float, ranked[:i])) for i in range(5000)]
    np.testing.assert_allclose(np.sort(conformal.scores(p)["aps"][0]), exact, rtol=0, atol=6.1e-8)


# classes of which the first is sure and the last a guess; the mass of the labels above is never 0 at the threshold
MEANS = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.2]])


def draw(rng: np.random.Generator, n: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of no calibrated network, and labels."""
    y = rng.integers(0, 3, n) if labels is None else labels
    z = MEANS[y] + rng.normal(size=(n, 3))
    return (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).astype(np.float32), y


@pytest.mark.parametrize("method", conformal.METHODS)
def test_coverage_follows_the_exact_law(method: str) -> None:
    """Of images at hand: a beta-binomial, by chi-square; within the last class for sets by class, of its 19 images."""
    rng, v, n, coverage, draws = np.random.default_rng(1), 19, 12, 0.88, 1000
    k = conformal.place(v, coverage)
    assert k == 18  # ceil(20 * 0.88)
    held = np.zeros(draws, int)
    for i in range(draws):
        y = np.repeat([0, 1, 2], v) if method == "class_conditional" else None
        p, y = draw(rng, v if y is None else 3 * v, y)
        q, z = draw(rng, n, np.full(n, 2) if method == "class_conditional" else None)
        found = conformal.sets(conformal.calibrate(p, y), conformal.scores(q), method, coverage)
        held[i] = found[np.arange(n), z].sum()
    counts = np.bincount(held, minlength=n + 1)
    law: Any = stats.betabinom(n, k, v + 1 - k)
    expected = draws * law.pmf(np.arange(n + 1))
    few = expected < 10
    both = [np.append(x[~few], x[few].sum()) for x in (counts, expected)]
    assert stats.chisquare(both[0], both[1] * both[0].sum() / both[1].sum()).pvalue > 1e-3
    assert held.mean() / n == pytest.approx(k / (v + 1), abs=4 * 0.09 / np.sqrt(draws))


def test_only_sets_by_class_keep_the_promise_in_the_hard_class() -> None:
    """LAC covers the guessed class less than was asked, and the sure one more."""
    rng = np.random.default_rng(2)
    (p, y), (q, z) = draw(rng, 3000), draw(rng, 6000)
    calibrated, found = conformal.calibrate(p, y), conformal.scores(q)
    held = {m: conformal.sets(calibrated, found, m, 0.9)[np.arange(6000), z] for m in ("lac", "class_conditional")}
    by_class = {m: [own[z == c].mean() for c in range(3)] for m, own in held.items()}
    assert min(by_class["lac"]) < 0.87
    assert max(by_class["lac"]) > 0.95
    np.testing.assert_allclose(by_class["class_conditional"], 0.9, atol=0.03)


def test_aps_and_raps_hold_the_most_probable_label_and_it_alone_below_the_accuracy() -> None:
    """A set of LAC may be empty."""
    rng = np.random.default_rng(3)
    p, _ = draw(rng, 400, np.zeros(400, int))
    right = p.argmax(axis=1) == 0
    assert right.mean() > 0.9
    calibrated, found = conformal.calibrate(p, np.zeros(400, int)), conformal.scores(p)
    for method in ("aps", "raps"):
        own = conformal.sets(calibrated, found, method, 0.8)
        np.testing.assert_array_equal(own, np.eye(3, dtype=bool)[p.argmax(axis=1)])
        assert conformal.sets(calibrated, found, method, 0.99)[np.arange(400), p.argmax(axis=1)].all()
    assert (conformal.sets(calibrated, found, "lac", 0.8).sum(axis=1) == 0).any()


@pytest.mark.parametrize(("coverage", "least"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.55, 2)])
def test_the_smallest_number_of_images_is_enough_and_one_less_is_not(coverage: float, least: int) -> None:
    """It is the largest score that is the threshold then."""
    assert conformal.smallest(coverage) == least
    own = np.arange(least, dtype=np.float32)
    assert conformal.threshold(own, coverage) == least - 1
    with pytest.raises(SettingsError, match=rf"needs at least {least} calibration images; {least - 1} came"):
        conformal.threshold(own[1:], coverage)


def test_the_range_of_coverage_by_hand() -> None:
    """One calibration image and a coverage of one half: every number of 99 images is as likely."""
    assert conformal.expected_coverage(1, 0.5, 99) == (pytest.approx(2 / 99), pytest.approx(97 / 99))


P3, Y3 = draw(np.random.default_rng(4), 30, np.repeat([0, 1, 2], [14, 11, 5]))
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "0": ({"coverage": 0.0}, r"coverage must be a number in \(0, 1\), such as 0.9; got 0.0"),
    "1": ({"coverage": 1.0}, r"coverage must be a number in \(0, 1\), such as 0.9; got 1.0"),
    "percent": ({"coverage": 90.0}, r"coverage must be a number in \(0, 1\), such as 0.9; got 90.0"),
    "nan": ({"coverage": float("nan")}, r"coverage must be a number in \(0, 1\), such as 0.9; got nan"),
    "method": ({"method": "asp"}, r"unknown method 'asp' \(did you mean 'aps'\?\); there are lac, aps, raps"),
    "few": ({"coverage": 0.99}, "a coverage of 0.99 needs at least 99 calibration images; 30 came"),
    "class": ({"method": "class_conditional"}, "at least 9 calibration images of each one; class 2 has 5"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_promised_is_refused(name: str) -> None:
    """In one line that says what would do."""
    given, text = MISTAKES[name]
    words: dict[str, Any] = {"method": "lac", "coverage": 0.9, **given}
    with pytest.raises(SettingsError, match=text):
        conformal.sets(conformal.calibrate(P3, Y3), conformal.scores(P3), **words)


def test_what_lacks_images_is_none_beside_the_others() -> None:
    """Sets by class, where a class has too few."""
    found = conformal.all_sets(conformal.calibrate(P3, Y3), P3, 0.9)
    assert {name for name, own in found.items() if own is None} == {"class_conditional"}
    assert all(own is not None for own in conformal.all_sets(conformal.calibrate(P3, Y3), P3, 0.8).values())


@pytest.mark.parametrize("coverage", ["0.9", None, [0.9], 1j])
def test_a_coverage_is_a_number(coverage: Any) -> None:
    """Whoever reads one from a file may have a word."""
    with pytest.raises(SettingsError, match="coverage must be a number in"):
        conformal.check_coverage(coverage)
