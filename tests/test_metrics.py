"""Every measure against an answer by hand, a literal loop or scikit-learn."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bend_jax import metrics

NO_DEADLINE = settings(deadline=None, max_examples=30, derandomize=True)


def random_probabilities(n: int = 200, classes: int = 5, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Rows of a softmax and labels that they half know."""
    logits = jax.random.normal(jax.random.key(seed), (n, classes))
    labels = jax.random.categorical(jax.random.key(seed + 1), logits, axis=1)
    return jax.nn.softmax(1.5 * logits, axis=1), labels


def test_accuracy_by_hand() -> None:
    """Two of three."""
    assert float(metrics.accuracy(jnp.array([0, 1, 2]), jnp.array([0, 1, 1]))) == pytest.approx(2 / 3)


def test_nll_by_hand() -> None:
    """Natural logarithm of the true label's probability; a zero is finite."""
    p = jnp.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    assert float(metrics.nll(p, jnp.array([1, 1]))) == pytest.approx(math.log(4) / 2, rel=1e-6)
    assert float(metrics.nll(p, jnp.array([0, 1]))) == pytest.approx(math.log(2) / 2, rel=1e-6)
    assert 10 < float(metrics.nll(p, jnp.array([1, 0]))) < 100
    assert float(metrics.nll(jnp.full((4, 10), 0.1), jnp.arange(4))) == pytest.approx(math.log(10), rel=1e-6)


def test_brier_by_hand() -> None:
    """Summed over classes: certain and right 0, certain and wrong 2, uniform 1 - 1/K."""
    p = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    assert float(metrics.brier(p, jnp.array([0, 0]))) == 0.0
    assert float(metrics.brier(p, jnp.array([1, 1]))) == 2.0
    assert float(metrics.brier(p, jnp.array([0, 1]))) == 1.0
    assert float(metrics.brier(jnp.full((3, 4), 0.25), jnp.array([0, 1, 3]))) == pytest.approx(0.75)
    assert float(metrics.brier(jnp.array([[0.7, 0.2, 0.1]]), jnp.array([1]))) == pytest.approx(0.49 + 0.64 + 0.01)


def test_accuracy_nll_and_brier_are_scikit_learns() -> None:
    """On random rows."""
    sk: Any = pytest.importorskip("sklearn.metrics")
    p, labels = random_probabilities()
    y, q = np.asarray(labels), np.asarray(p, np.float64)
    q = q / q.sum(axis=1, keepdims=True)
    assert float(metrics.accuracy(jnp.argmax(p, axis=1), labels)) == pytest.approx(sk.accuracy_score(y, q.argmax(1)))
    assert float(metrics.nll(p, labels)) == pytest.approx(sk.log_loss(y, q, labels=range(5)), rel=1e-5)
    columns = [sk.brier_score_loss(y == c, q[:, c]) for c in range(5)]
    assert float(metrics.brier(p, labels)) == pytest.approx(sum(columns), rel=1e-5)


def rows_of(confidences: list[float]) -> jax.Array:
    """Two-class rows that say class 0 with these confidences (at least a half)."""
    top = jnp.array(confidences, jnp.float32)
    return jnp.stack([top, 1 - top], axis=1)


def test_ece_by_hand() -> None:
    """Four bins: 0.6, 0.7 (one right of two) and 0.9, 1.0 (both right)."""
    p = rows_of([0.6, 0.7, 0.9, 1.0])
    expected = (2 * abs(0.5 - 0.65) + 2 * abs(1.0 - 0.95)) / 4
    assert float(metrics.ece(p, jnp.array([0, 1, 0, 0]), bins=4)) == pytest.approx(expected, rel=1e-5)
    assert float(metrics.ece(jnp.eye(3), jnp.arange(3))) == pytest.approx(0.0, abs=1e-7)
    assert float(metrics.ece(jnp.eye(3), (jnp.arange(3) + 1) % 3)) == pytest.approx(1.0, rel=1e-6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    """Bins are (lo, hi]: 0.75 of four bins lies with 0.6, not with 0.9. Gaps of both signs tell them apart."""
    p = rows_of([0.6, 0.75, 0.9])
    labels = jnp.array([0, 1, 0])  # right, wrong, right
    below = (abs((1 - 0.6) + (0 - 0.75)) + (1 - 0.9)) / 3
    above = ((1 - 0.6) + abs((0 - 0.75) + (1 - 0.9))) / 3
    assert below != pytest.approx(above)
    assert float(metrics.ece(p, labels, bins=4)) == pytest.approx(below, rel=1e-5)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("bins", [5, 10, 15])
def test_every_edge_belongs_to_the_bin_below(bins: int, jit: bool) -> None:
    """Also edges that float32 cannot hold exactly: a wrong image on each, a right one just inside the same bin."""
    ece = jax.jit(metrics.ece, static_argnames="bins") if jit else metrics.ece
    for k in range(bins // 2 + 1, bins + 1):
        edge, inside = np.float32(k / bins), np.float32((k - 0.5) / bins)
        p = rows_of([float(edge), float(inside)])
        together = abs((0 - edge) + (1 - inside)) / 2
        assert float(ece(p, jnp.array([1, 0]), bins=bins)) == pytest.approx(together, abs=1e-5)


def test_a_confidence_below_the_second_edge_has_the_first_bin() -> None:
    """Twenty classes can leave 0.05 for the surest: below 1/15, with an image of the second bin beside it."""
    p = jnp.full((2, 20), 0.05).at[1].set(0.9 / 19).at[1, 0].set(0.1)
    assert float(metrics.ece(p, jnp.array([0, 1]))) == pytest.approx((0.95 + 0.1) / 2, rel=1e-4)


@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_a_paired_bootstrap_has_the_width_of_its_images_and_seeds(apart: float) -> None:
    """Normal quantiles of the mean: over images alone for seeds that agree, over the two blocks where they differ."""
    own = np.random.default_rng(0).normal(size=2000)
    found = metrics.paired_bootstrap(np.stack([own, own + apart]), draws=4000)
    half = 1.96 * own.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(own.mean() + apart / 2)
    for side in (found.mean - found.low, found.high - found.mean):
        assert side == pytest.approx(half + apart / 2, rel=0.05)  # one block twice: 1 draw in 4


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_is_the_loop_over_bins(bins: int) -> None:
    """Guo et al.'s formula in float64: weight of a bin times |accuracy - confidence|."""
    p, labels = random_probabilities()
    q, y = np.asarray(p, np.float64), np.asarray(labels)
    confidence, right = q.max(axis=1), q.argmax(axis=1) == y
    expected = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert float(metrics.ece(p, labels, bins=bins)) == pytest.approx(expected, rel=1e-4)


def test_the_reliability_diagram_is_scikit_learns() -> None:
    """Accuracy and confidence of the bins that have images, NaN in the others; its gaps are the calibration error."""
    calibration: Any = pytest.importorskip("sklearn.calibration")
    p, labels = random_probabilities()
    confidence, right = np.max(p, axis=1), np.argmax(p, axis=1) == np.asarray(labels)
    accuracy, mean = calibration.calibration_curve(right, confidence, n_bins=12)
    found = metrics.Reliability(*map(np.asarray, metrics.reliability(p, labels, bins=12)))
    used = found.share > 0
    assert 0 < used.sum() < 12
    np.testing.assert_array_equal(np.isnan(found.accuracy), ~used)
    np.testing.assert_allclose(found.accuracy[used], accuracy, rtol=1e-5)
    np.testing.assert_allclose(found.confidence[used], mean, rtol=1e-5)
    assert found.share.sum() == pytest.approx(1.0)
    gaps = found.share[used] * abs(found.accuracy[used] - found.confidence[used])
    assert gaps.sum() == pytest.approx(float(metrics.ece(p, labels, bins=12)), rel=1e-4)


def test_fit_temperature_recovers_the_sharpening() -> None:
    """Labels drawn from softmax(z), probabilities softmax(T z): found T is within 4 standard errors of log T."""
    z = jax.random.normal(jax.random.key(0), (4000, 5))
    labels = jax.random.categorical(jax.random.key(1), z, axis=1)
    p = np.asarray(jax.nn.softmax(z, axis=1), np.float64)
    scores = np.asarray(z, np.float64)
    information = np.sum((p * scores**2).sum(axis=1) - (p * scores).sum(axis=1) ** 2)
    for sharpening in (0.5, 1.0, 3.0):
        found = float(metrics.fit_temperature(jax.nn.softmax(sharpening * z, axis=1), labels))
        assert abs(math.log(found / sharpening)) < 4 / math.sqrt(information)


def test_fit_temperature_has_a_closed_form_for_equal_rows() -> None:
    """All say 0.9 and 7 of 10 are right: 9^(1/T) = 7/3; where more is always better, the end of the range."""
    p = rows_of([0.9] * 10)
    labels = jnp.array([0] * 7 + [1] * 3)
    assert float(metrics.fit_temperature(p, labels)) == pytest.approx(math.log(9) / math.log(7 / 3), rel=1e-3)
    assert float(metrics.fit_temperature(rows_of([0.6] * 4), jnp.zeros(4, int))) == pytest.approx(1 / 16, rel=1e-2)
    assert float(metrics.fit_temperature(rows_of([0.6] * 4), jnp.ones(4, int))) == pytest.approx(16, rel=1e-2)


def test_scaled_probabilities_are_the_softmax_of_scaled_logits() -> None:
    """And T = 1 changes nothing."""
    logits = jax.random.normal(jax.random.key(2), (7, 4))
    p = jax.nn.softmax(logits, axis=1)
    np.testing.assert_allclose(metrics.scale_temperature(p, 1.0), p, rtol=1e-5)
    np.testing.assert_allclose(
        metrics.scale_temperature(p, jnp.float32(2.5)), jax.nn.softmax(logits / 2.5, axis=1), rtol=1e-5
    )


def test_counts_by_hand() -> None:
    """Members in rows, images in columns."""
    np.testing.assert_array_equal(metrics.counts(jnp.array([[0, 2], [0, 1], [1, 1]]), 3), [[2, 1, 0], [0, 2, 1]])


Labels = list[list[int]]


@st.composite
def label_rows(draw: st.DrawFn, rows: int, images: int) -> Labels:
    """That many rows of labels below 4."""
    row = st.lists(st.integers(0, 3), min_size=images, max_size=images)
    return draw(st.lists(row, min_size=rows, max_size=rows))


@st.composite
def two_sets(draw: st.DrawFn) -> tuple[Labels, Labels]:
    """m and k rows of labels of the same images, of a few shapes."""
    m, k, n = draw(st.sampled_from([(2, 3, 5), (4, 2, 1), (3, 3, 7), (2, 1, 4)]))
    return draw(label_rows(m, n)), draw(label_rows(k, n))


def differing(a: list[int], b: list[int]) -> int:
    """On how many images two rows differ."""
    return sum(x != y for x, y in zip(a, b, strict=True))


@NO_DEADLINE
@given(two_sets())
def test_disagreement_is_the_double_loop(sets: tuple[Labels, Labels]) -> None:
    """Over ordered pairs i != j."""
    rows = sets[0]
    pairs = [(a, b) for (i, a), (j, b) in itertools.product(enumerate(rows), repeat=2) if i != j]
    expected = sum(differing(a, b) / len(a) for a, b in pairs) / len(pairs)
    assert metrics.disagreement(jnp.array(rows)) == pytest.approx(expected, abs=1e-12)


@NO_DEADLINE
@given(two_sets())
def test_cross_disagreement_is_the_double_loop(sets: tuple[Labels, Labels]) -> None:
    """Over every pair of one of each set."""
    a, b = sets
    expected = np.mean([differing(x, y) / len(x) for x in a for y in b])
    assert metrics.cross_disagreement(jnp.array(a), jnp.array(b)) == pytest.approx(expected, abs=1e-12)


@NO_DEADLINE
@given(two_sets())
def test_eq14_and_eq15_are_the_literal_sums(sets: tuple[Labels, Labels]) -> None:
    """eq. 14: sum over i and j of differing images over m - 1; eq. 15: of member i and checkpoint i, over m."""
    a, b = sets
    m, n = len(a), len(a[0])
    literal = sum(differing(a[i], a[j]) for i in range(m) for j in range(m)) / (m - 1)
    assert metrics.eq14(jnp.array(a)) == pytest.approx(literal, abs=1e-9)
    assert metrics.eq14(jnp.array(a)) / (m * n) == pytest.approx(metrics.disagreement(jnp.array(a)), abs=1e-9)
    pairs = min(m, len(b))
    literal = sum(differing(a[i], b[i]) for i in range(pairs)) / pairs
    assert metrics.eq15(jnp.array(a), jnp.array(b)) == pytest.approx(literal, rel=1e-6)


def test_disagreement_at_its_ends() -> None:
    """All the same 0, all different 1, one member 0; a set against itself has its own pairs in it."""
    same = jnp.zeros((4, 9), int)
    different = jnp.broadcast_to(jnp.arange(4)[:, None], (4, 9))
    assert metrics.disagreement(same) == 0.0
    assert metrics.disagreement(different) == 1.0
    assert metrics.disagreement(same[:1]) == 0.0
    assert metrics.cross_disagreement(different, different) == pytest.approx(0.75)
    assert metrics.cross_disagreement(same, same + 1) == 1.0


@NO_DEADLINE
@given(two_sets())
def test_error_iou_is_that_of_the_sets(sets: tuple[Labels, Labels]) -> None:
    """Of wrongly labelled images; symmetric; 1 where neither errs."""
    a, b = sets[0][0], sets[1][0]
    labels = sets[0][-1]
    wrong_a, wrong_b = ({i for i, y in enumerate(labels) if row[i] != y} for row in (a, b))
    union = wrong_a | wrong_b
    expected = len(wrong_a & wrong_b) / len(union) if union else 1.0
    for first, second in ((a, b), (b, a)):
        found = metrics.error_iou(jnp.array(first), jnp.array(second), jnp.array(labels))
        assert found == pytest.approx(expected, rel=1e-6)


def test_error_iou_of_two_faultless_rows_is_one() -> None:
    """The empty union; against one error it is 0; different wrong labels are the same error."""
    labels = jnp.array([0, 1, 2])
    assert metrics.error_iou(labels, labels, labels) == 1.0
    assert metrics.error_iou(labels, jnp.array([0, 1, 0]), labels) == 0.0
    assert metrics.error_iou(jnp.array([0, 1, 1]), jnp.array([0, 1, 0]), labels) == 1.0


@pytest.mark.parametrize(("errors", "expected"), [((0, 1, 2), 0.0), ((2, 2, 1), 2 / 3), ((2, 2, 2), 1.0)])
def test_the_ious_of_figure_3(errors: tuple[int, ...], expected: float) -> None:
    """Three classifiers with one error each: mean over members of the largest IoU to another."""
    predictions = jnp.asarray(np.eye(3, dtype=np.int32)[np.array(errors)])
    assert metrics.ensemble_iou(predictions, jnp.zeros(3, int)) == pytest.approx(expected, rel=1e-6)


def test_the_iou_of_one_member_is_undefined() -> None:
    """There is no other one."""
    assert metrics.ensemble_iou(jnp.zeros((1, 3), int), jnp.zeros(3, int)) is None


def test_max_iou_is_to_the_most_similar_checkpoint() -> None:
    """A copy has 1, a stranger the share it has in common."""
    labels = jnp.zeros(4, int)
    checkpoints = jnp.array([[1, 1, 0, 0], [0, 0, 0, 1]])
    members = jnp.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(metrics.max_iou(members, checkpoints, labels), [1.0, 1 / 3, 0.0], rtol=1e-6)


def test_the_iou_to_another_member_leaves_out_a_members_own_views() -> None:
    """Rows 0 and 1 are one member's, 2 and 3 another's: as the loop over the other member's rows has it."""
    rng = np.random.default_rng(4)
    labels, rows = jnp.zeros(12, int), rng.integers(0, 2, (4, 12))
    other = {0: (2, 3), 1: (2, 3), 2: (0, 1), 3: (0, 1)}
    expected = [max(metrics.error_iou(jnp.array(rows[i]), jnp.array(rows[j]), labels) for j in other[i]) for i in other]
    np.testing.assert_allclose(metrics.others_iou(jnp.array(rows), labels, 2), expected, rtol=1e-6)
    alone = [
        max(metrics.error_iou(jnp.array(rows[i]), jnp.array(rows[j]), labels) for j in range(4) if j != i)
        for i in range(4)
    ]
    np.testing.assert_allclose(metrics.others_iou(jnp.array(rows), labels), alone, rtol=1e-6)


CHECKPOINTS = np.random.default_rng(0).normal(size=(30, 50)).astype(np.float32) * 2 + 5


def test_the_checkpoints_themselves_are_copies_with_their_own_spread() -> None:
    """Identity members: distance 0, all copies, spread 1, the same effective rank."""
    found = metrics.novelty(CHECKPOINTS, CHECKPOINTS)
    assert found.nearest == pytest.approx(0.0, abs=1e-5)
    assert found.copy_share == 1.0
    assert found.spread == pytest.approx(1.0, rel=1e-9)
    assert found.effective_rank_members == found.effective_rank_checkpoints
    loop = [min(np.linalg.norm(a - b) for j, b in enumerate(CHECKPOINTS) if i != j) for i, a in enumerate(CHECKPOINTS)]
    assert found.leave_one_out == pytest.approx(np.mean(loop), rel=1e-5)


def test_draws_of_a_gaussian_fitted_to_checkpoints_have_spread_one_and_are_no_copies() -> None:
    """Mean of var ratios over 50 coordinates and 4000 draws is within 4 standard errors of 1."""
    m, dim = 4000, CHECKPOINTS.shape[1]
    noise = np.random.default_rng(1).normal(size=(m, dim))
    members = CHECKPOINTS.mean(axis=0)[None] + CHECKPOINTS.std(axis=0)[None] * noise
    found = metrics.novelty(members, CHECKPOINTS)
    assert found.spread is not None
    assert abs(found.spread**2 - 1) < 4 * math.sqrt(2 / (m * dim))
    assert found.copy_share == 0.0
    half = metrics.novelty(0.5 * (members - CHECKPOINTS.mean(axis=0)[None]), CHECKPOINTS).spread
    assert half == pytest.approx(0.5 * found.spread, rel=1e-6)


def test_novelty_by_hand() -> None:
    """Checkpoints at 0 and 8 on a line; members at 1 (a copy: 1/7), 3 (not: 3/5) and 4 (half way)."""
    checkpoints = np.array([[0.0, 7.0], [8.0, 7.0]], np.float32)
    members = np.array([[1.0, 7.0], [3.0, 7.0], [4.0, 7.0]], np.float32)
    found = metrics.novelty(members, checkpoints)
    assert found.nearest == pytest.approx((1 + 3 + 4) / 3)
    assert found.leave_one_out == pytest.approx(8.0)
    assert found.copy_share == pytest.approx(1 / 3)
    # the second coordinate does not vary in the checkpoints and does not count
    assert found.spread == pytest.approx(math.sqrt(np.var([1, 3, 4]) / 16))
    assert found.effective_rank_members == pytest.approx(1.0)


def test_what_does_not_vary_has_no_spread_and_no_rank() -> None:
    """Undefined is None; a coordinate without variance alone does not count."""
    same = np.full((4, 3), 0.1, np.float32)
    found = metrics.novelty(CHECKPOINTS[:5, :3], same)
    assert found.spread is None
    assert found.effective_rank_checkpoints is None
    assert found.effective_rank_members is not None
    still = metrics.novelty(same, CHECKPOINTS[:5, :3])
    assert still.spread == 0.0
    assert still.effective_rank_members is None


@pytest.mark.parametrize(
    ("variances", "expected"),
    [
        ([1.0], 1.0),
        ([2.0, 2.0], 2.0),
        ([3.0] * 6, 6.0),
        ([4.0, 1.0], 5 / 4**0.8),  # exp(-(0.8 ln 0.8 + 0.2 ln 0.2))
        ([1.0, 1.0, 0.0, 0.0], 2.0),
    ],
)
def test_effective_rank_of_known_spectra(variances: list[float], expected: float) -> None:
    """Pairs +- sqrt(variance) along each axis of a rotated frame, far from the origin."""
    frame = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0][: len(variances)]
    axes = np.sqrt(np.array(variances))[:, None] * frame
    vectors = np.concatenate([axes, -axes]) + 10.0
    assert metrics.effective_rank(vectors) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 7), (7, 1), (0, 5), (3, 4), (6, 6), (2, 20)])
def test_mcnemar_is_the_binomials_two_tails(only_a: int, only_b: int) -> None:
    """Twice the lower tail of Binomial(a + b, 1/2), at most 1; images on which both agree do not count."""
    a = np.array([True] * only_a + [False] * only_b + [True] * 9 + [False] * 3)
    b = np.array([False] * only_a + [True] * only_b + [True] * 9 + [False] * 3)
    total = only_a + only_b
    tail = sum(math.comb(total, i) for i in range(min(only_a, only_b) + 1)) / 2**total
    assert metrics.mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar_of_equal_classifiers_is_one() -> None:
    """Nothing tells them apart."""
    right = np.array([True, False, True])
    assert metrics.mcnemar(right, right) == 1.0


def test_the_share_of_copies_at_its_edge() -> None:
    """d1 / d2 = 1/3 is no copy; a member that equals two checkpoints is one; of a single checkpoint only itself is."""
    assert metrics.novelty(np.array([[1.0]]), np.array([[0.0], [4.0]])).copy_share == 0.0
    assert metrics.novelty(np.array([[2.0]]), np.array([[2.0], [2.0], [5.0]])).copy_share == 1.0
    alone = metrics.novelty(np.array([[3.0], [1.0]]), np.array([[3.0]]))
    assert (alone.copy_share, alone.nearest, alone.leave_one_out) == (0.5, 1.0, None)
    assert (alone.spread, alone.effective_rank_checkpoints) == (None, None)
