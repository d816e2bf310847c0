"""What ranks images: against scikit-learn, SciPy and answers by hand."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import metrics
from bend_jax.evaluation import uncertainty

INFORMATION = jax.jit(uncertainty.mutual_information)
RNG = np.random.default_rng(0)


def scores(step: float, negatives: int, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping samples, rounded to multiples of a step (0: no ties)."""
    found = RNG.normal(0, 1, negatives), RNG.normal(0.7, 1, positives)
    return found if step == 0 else (np.round(found[0] / step) * step, np.round(found[1] / step) * step)


@pytest.mark.parametrize("step", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("positives", [1, 7, 20, 60])
def test_auroc_and_fpr95_are_scikit_learns(step: float, positives: int) -> None:
    """Also where scores tie, and where 95% of the positives is a whole number of them."""
    sk: Any = pytest.importorskip("sklearn.metrics")
    inside, outside = scores(step, 83, positives)
    truth, both = np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])
    assert uncertainty.auroc(inside, outside) == pytest.approx(sk.roc_auc_score(truth, both), abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(truth, both, drop_intermediate=False)
    assert uncertainty.fpr95(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)


def test_auroc_by_hand() -> None:
    """Pairs won, drawn and lost."""
    assert uncertainty.auroc(np.array([0, 1, 2]), np.array([3, 4])) == 1.0
    assert uncertainty.auroc(np.array([3, 4]), np.array([0, 1, 2])) == 0.0
    assert uncertainty.auroc(np.array([1, 1]), np.array([1])) == 0.5
    assert uncertainty.auroc(np.array([0, 2]), np.array([1, 2])) == (1 + 0 + 1 + 0.5) / 4


def test_fpr95_by_hand() -> None:
    """19 of 20 positives are enough; a negative on the threshold is a false alarm; all have to be caught of fewer."""
    positives = np.array([0] + [10] * 19)
    assert uncertainty.fpr95(np.array([1, 9, 10, 11]), positives) == 0.5
    assert uncertainty.fpr95(np.array([1, 9, 10, 11]), positives[:19]) == 1.0
    assert uncertainty.fpr95(np.array([-1, 5, 10]), np.array([11, 12])) == 0.0


def entropy(p: np.ndarray, axis: int) -> Any:
    """SciPy's, which is imported here, since that takes most of a second."""
    from scipy import stats

    return stats.entropy(p, axis=axis)


def test_entropy_is_scipys() -> None:
    """In nats; log K at most, 0 for certainty; the order of the classes does not matter, to the last bit."""
    p = RNG.dirichlet(np.ones(7), 40).astype(np.float32)
    found = np.asarray(uncertainty.entropy(jnp.asarray(p)))
    np.testing.assert_allclose(found, entropy(p.astype(float), axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found, uncertainty.entropy(jnp.asarray(p[:, RNG.permutation(7)])))
    ends = uncertainty.entropy(jnp.array([[0.25] * 4, [0.0, 1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(ends, [math.log(4), 0.0], rtol=1e-6)


def test_mutual_information_is_the_entropy_of_the_mean_minus_the_mean_entropy() -> None:
    """In float64 through SciPy; log 2 for two certain members that differ, exactly 0 for equal ones."""
    p = RNG.dirichlet(np.full(5, 0.5), (6, 30)).astype(np.float32)
    q = p.astype(float)
    expected = entropy(q.mean(axis=0), axis=1) - entropy(q, axis=2).mean(axis=0)
    np.testing.assert_allclose(INFORMATION(jnp.asarray(p)), expected, rtol=1e-4)
    split = jnp.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(INFORMATION(split), [math.log(2)], rtol=1e-6)
    assert np.all(np.asarray(INFORMATION(jnp.asarray(p[:1]))) == 0)


def test_mutual_information_of_nearly_equal_members_is_not_rounding() -> None:
    """Members 0.1% apart: 1e-6 nats, of which a difference of float32 entropies would know no digit."""
    p = RNG.dirichlet(np.full(5, 2.0), 20)
    q = np.stack([p, p * (1 + 1e-3 * RNG.normal(size=p.shape))])
    q = (q / q.sum(axis=2, keepdims=True)).astype(np.float32)
    exact = q.astype(float) / q.astype(float).sum(axis=2, keepdims=True)
    expected = entropy(exact.mean(axis=0), axis=1) - entropy(exact, axis=2).mean(axis=0)
    assert 1e-8 < expected.max() < 1e-5
    found = np.asarray(INFORMATION(jnp.asarray(q)))
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-9)


def test_vote_disagreement_by_hand() -> None:
    """Three of four agree, all agree, no two agree."""
    counts = metrics.counts(jnp.array([[0, 2, 0], [0, 2, 1], [1, 2, 2], [0, 2, 3]]), 4)
    np.testing.assert_allclose(uncertainty.vote_disagreement(counts), [0.25, 0.0, 0.75])


def test_risk_coverage_by_hand() -> None:
    """The most confident first: right, wrong, right, wrong."""
    found = uncertainty.risk_coverage(np.array([0.6, 0.9, 0.7, 0.8]), np.array([True, False, False, True]))
    np.testing.assert_allclose(found.coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(found.risk, [0, 1 / 2, 1 / 3, 2 / 4])
    area = uncertainty.aurc(np.array([0.6, 0.9, 0.7, 0.8]), np.array([True, False, False, True]))
    assert area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_errors_that_are_the_least_confident_make_the_least_area() -> None:
    """For every place of two errors among six images."""
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    areas = {}
    for places in itertools.combinations(range(6), 2):
        areas[places] = uncertainty.aurc(confidence, np.isin(np.arange(6), places))
    assert min(areas, key=lambda p: areas[p]) == (4, 5)
    assert max(areas, key=lambda p: areas[p]) == (0, 1)


def test_ties_of_confidence_count_as_the_mean_over_their_orders() -> None:
    """By trying all orders of three tied images between two others."""
    confidence, wrong = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([True, True, False, False, False])
    curves = []
    for order in itertools.permutations((1, 2, 3)):
        errors = wrong[[0, *order, 4]]
        curves.append(np.cumsum(errors) / np.arange(1, 6))
    np.testing.assert_allclose(uncertainty.risk_coverage(confidence, wrong).risk, np.mean(curves, axis=0))
