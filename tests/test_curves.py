"""The arrays behind the figures: against counting by hand."""

import numpy as np
import pytest

from bend_jax.evaluation import curves
from bend_jax.evaluation.predict import Outputs, Running

RNG = np.random.default_rng(0)
M, VIEWS, N, CLASSES = 7, 2, 40, 4
LABELS = RNG.integers(0, CLASSES, N).astype(np.int32)


def outputs(members: int, steps: tuple[int, ...] | None = None) -> Outputs:
    """Members that are right more often than not, at two views each."""
    p = RNG.dirichlet(np.ones(CLASSES), (members * VIEWS, N)) + 0.4 * np.eye(CLASSES)[LABELS]
    p = (p / p.sum(axis=2, keepdims=True)).astype(np.float32)
    first = [p[: m * VIEWS].mean(axis=0) for m in steps or ()]
    running = None
    if steps:
        labels = np.stack([q.argmax(axis=1).astype(np.int32) for q in first])
        running = Running(steps, labels, np.stack([q[np.arange(N), LABELS] for q in first]))
    return Outputs(p.argmax(axis=2).astype(np.int32), p.mean(axis=0), {}, p, None, running)


def test_steps_begin_at_one_member_and_end_at_all() -> None:
    """All of few; at most fifty of many, ever further apart."""
    assert curves.steps(1) == (1,)
    assert curves.steps(10) == tuple(range(1, 11))
    for m in (100, 1000):
        found = curves.steps(m)
        assert found[:3] == (1, 2, 3)
        assert found[-1] == m
        assert 30 < len(found) <= 50
        gaps = np.diff(found)
        assert gaps[:10].max() < gaps[-1] == gaps.max()


def test_votes_of_the_first_members_are_those_of_a_smaller_ensemble() -> None:
    """Each m by counting anew, with ties of labels going to the lowest class."""
    steps = (1, 2, 4, 7)
    own = outputs(M, steps)
    assert own.probabilities is not None
    found = curves.by_members(own, LABELS, VIEWS, CLASSES)
    assert found["m"] == list(steps)
    for i, m in enumerate(steps):
        labels, p = own.predictions[: m * VIEWS], own.probabilities[: m * VIEWS].mean(axis=0)
        votes = np.array([np.bincount(column, minlength=CLASSES).argmax() for column in labels.T])
        assert found["sbend"][i] == pytest.approx((votes == LABELS).mean())
        assert found["mean"][i] == pytest.approx((p.argmax(axis=1) == LABELS).mean())
        assert found["single"][i] == pytest.approx((labels == LABELS).mean())
        assert found["nll"][i] == pytest.approx(-np.log(p[np.arange(N), LABELS]).mean(), rel=1e-5)
    assert len(set(found["sbend"])) > 1
    assert len(set(found["single"])) == len(steps)


def test_every_member_has_its_accuracy_and_its_likeness_to_the_checkpoints() -> None:
    """Over its views; a checkpoint's is to the others, and a set that is the checkpoints is like them."""
    checkpoints, own = outputs(3), outputs(M)
    test = {"base": outputs(1), "swa": outputs(1), "checkpoints": checkpoints, "bend": own, "identity": checkpoints}
    test["bend"] = own._replace(running=outputs(M, (M,)).running)
    shown = {"base": (checkpoints.mean, 1.0)}
    found = curves.curves(test, shown, LABELS, "bend", VIEWS, 5, CLASSES)["members"]
    assert set(found) == {"checkpoints", "bend", "identity"}
    assert found["identity"]["max_iou"] == [1.0] * 3
    assert max(found["checkpoints"]["max_iou"]) < 1
    right = (own.predictions == LABELS).reshape(M, -1).mean(axis=1)
    np.testing.assert_allclose(found["bend"]["accuracy"], right)
    wrong, theirs = own.predictions[:VIEWS] != LABELS, checkpoints.predictions != LABELS
    similar = [max((a & b).sum() / (a | b).sum() for b in theirs) for a in wrong]
    assert found["bend"]["max_iou"][0] == pytest.approx(np.mean(similar), rel=1e-6)


def test_empty_bins_are_null_and_few_points_are_kept() -> None:
    """In a form that JSON knows; the last point of a risk-coverage curve is all images and the error rate."""
    p = outputs(1).mean
    found = curves.reliability(p, LABELS, 15)
    assert found["share"][0] == 0.0
    assert found["accuracy"][0] is found["confidence"][0] is None
    assert sum(x or 0.0 for x in found["share"]) == pytest.approx(1.0)
    long, labels = np.tile(p, (20, 1)), np.tile(LABELS, 20)
    for rows, true, points in ((p, LABELS, N), (long, labels, 200)):
        found = curves.risk_coverage(rows, true)
        assert len(found["risk"]) == len(found["coverage"]) == points
        assert found["coverage"][-1] == 1.0
        assert found["coverage"][0] == pytest.approx(1 / points)
        assert found["risk"][-1] == pytest.approx((rows.argmax(axis=1) != true).mean())
