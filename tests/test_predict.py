"""Predictions of several sets at once, views, and the votes that validation images decide."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import ensemble, metrics
from bend_jax.data import augment, sources, splits
from bend_jax.evaluation import scores
from bend_jax.evaluation.predict import Outputs, Wanted, labels, predict
from bend_jax.subset import Subset

CLASSES, N, SIDE = 3, 11, 4
SUBSET = Subset(("params.w",), ((SIDE * SIDE, CLASSES),))
VARIABLES = {"params": {"w": jnp.zeros((SIDE * SIDE, CLASSES))}}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (N, SIDE, SIDE, 1)).astype(np.uint8)
SETS = {name: RNG.normal(size=(m, SIDE * SIDE * CLASSES)).astype(np.float32) for name, m in (("a", 3), ("b", 2))}


def apply(variables: Any, images: Any) -> Any:
    """A linear net."""
    return images.reshape(len(images), -1) @ variables["params"]["w"]


def images(rows: slice, view: str) -> Any:
    """As a stage gives them."""
    return augment.shifted_view(jnp.asarray(IMAGES[rows]), view) / 255.0


def by_hand(vector: Any, view: str) -> Any:
    """Probabilities of one member for one view of all images."""
    x = np.asarray(augment.shifted_view(jnp.asarray(IMAGES), view), np.float64).reshape(N, -1) / 255
    z = x @ np.asarray(vector, np.float64).reshape(SIDE * SIDE, CLASSES)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch", [N, 4])
def test_every_vote_runs_over_members_and_views(batch: int) -> None:
    """Voters are members times views, side by side; batches that do not divide n change nothing."""
    from scipy import stats  # here, since it takes most of a second

    views = ("identity", "flip", "up")
    weights = {"a": {"greedy": np.array([0.0, 3.0, 1.0])}}
    true, steps = np.arange(N, dtype=np.int32) % CLASSES, (1, 2, 3)
    found = predict(
        *(apply, VARIABLES, SUBSET, SETS, images, N),
        batch=batch,
        views=views,
        wanted=Wanted(weights, keep=True, running={"a": steps}, labels=true),
    )
    alone = labels(apply, VARIABLES, SUBSET, SETS, images, N, batch=batch, views=views)
    for name, vectors in SETS.items():
        np.testing.assert_array_equal(alone[name], found[name].predictions)
        p = np.stack([by_hand(vector, view) for vector in vectors for view in views])
        np.testing.assert_allclose(found[name].probabilities, p, atol=1e-5)
        np.testing.assert_array_equal(found[name].predictions, p.argmax(axis=2))
        np.testing.assert_allclose(found[name].mean, p.mean(axis=0), atol=1e-5)
        pool = stats.gmean(p, axis=0)
        np.testing.assert_allclose(found[name].pools["pool"], pool / pool.sum(axis=1, keepdims=True), atol=1e-5)
        information = stats.entropy(p.mean(axis=0), axis=1) - stats.entropy(p, axis=2).mean(axis=0)
        np.testing.assert_allclose(found[name].information, information, atol=1e-5)
        if name == "a":
            first, own = [p[: m * len(views)].mean(axis=0) for m in steps], found[name].running
            assert own is not None
            assert own.members == steps
            np.testing.assert_array_equal(own.predictions, [q.argmax(axis=1) for q in first])
            np.testing.assert_allclose(own.likelihoods, [q[np.arange(N), true] for q in first], atol=1e-5)
    one, two = (np.stack([by_hand(SETS["a"][i], view) for view in views]).mean(axis=0) for i in (1, 2))
    np.testing.assert_allclose(found["a"].weighted["greedy"], 0.75 * one + 0.25 * two, atol=1e-5)
    one, two = (stats.gmean([by_hand(SETS["a"][i], view) for view in views], axis=0) for i in (1, 2))
    pool = one**0.75 * two**0.25
    np.testing.assert_allclose(found["a"].pools["greedy_pool"], pool / pool.sum(axis=1, keepdims=True), atol=1e-5)
    assert found["b"].weighted == {}
    assert set(found["b"].pools) == {"pool"}
    assert found["b"].running is None


def test_weights_that_do_not_match_members_are_refused() -> None:
    """In one line with both numbers."""
    with pytest.raises(ValueError, match=r"greedy: weights of shape \[2\] came for 3 members"):
        predict(
            apply,
            VARIABLES,
            SUBSET,
            SETS,
            images,
            N,
            batch=N,
            wanted=Wanted({"a": {"greedy": np.array([0.5, 0.5])}}),
        )
    with pytest.raises(ValueError, match="need the true labels"):
        predict(apply, VARIABLES, SUBSET, SETS, images, N, batch=N, wanted=Wanted(running={"a": (1,)}))
    with pytest.raises(ValueError, match=r"weights of shape \[2\] came for 3 members"):
        ensemble.weighted_vote(jnp.zeros((3, N, CLASSES)), jnp.ones(2))


# views


def test_every_view_of_the_settings_is_there_and_different() -> None:
    """A pixel's move brings zeros in at the edge; flip is its own inverse."""
    x = jnp.arange(1, 10, dtype=jnp.uint8).reshape(1, 3, 3, 1)
    seen = {view: np.asarray(augment.shifted_view(x, view))[0, :, :, 0] for view in augment.VIEWS}
    assert seen["flip"].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert seen["left"].tolist() == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    assert seen["right"].tolist() == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert seen["up"].tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert seen["down"].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert len({image.tobytes() for image in seen.values()}) == len(augment.VIEWS)


# the greedy vote


def brute_force(likelihoods: np.ndarray, size: int) -> np.ndarray:
    """Each step by trying every member; the shortest ensemble of least NLL."""
    chosen: list[int] = []
    best, result = np.inf, None
    for _ in range(size):
        losses = [-np.log(likelihoods[[*chosen, i]].mean(axis=0)).mean() for i in range(len(likelihoods))]
        chosen.append(int(np.argmin(losses)))
        if min(losses) < best - 1e-7:
            best, result = min(losses), np.bincount(chosen, minlength=len(likelihoods)) / len(chosen)
    assert result is not None
    return result


@pytest.mark.parametrize("seed", range(6))
def test_the_greedy_vote_is_that_of_trying_every_member(seed: int) -> None:
    """At every step, with replacement, and the best ensemble on the way is taken."""
    likelihoods = np.random.default_rng(seed).uniform(0.01, 1, (6, 9))
    found = np.asarray(ensemble.greedy_weights(jnp.asarray(likelihoods, jnp.float32), 8))
    np.testing.assert_allclose(found, brute_force(likelihoods, 8), atol=1e-6)


def test_the_greedy_vote_of_two_finds_the_best_pair_that_holds_the_best_member() -> None:
    """And is never worse on its validation images than the best member alone, whatever the size."""
    likelihoods = np.random.default_rng(7).uniform(0.01, 1, (5, 20))
    nll = {i: -np.log(likelihoods[i]).mean() for i in range(5)}
    first = min(nll, key=lambda i: nll[i])
    pairs = [(first, j) for j in range(5)]
    best = min(pairs, key=lambda pair: -np.log(likelihoods[list(pair)].mean(axis=0)).mean())
    found = np.asarray(ensemble.greedy_weights(jnp.asarray(likelihoods, jnp.float32), 2))
    np.testing.assert_allclose(found, np.bincount(best, minlength=5) / 2, atol=1e-6)
    for size in range(1, 9):
        weights = np.asarray(ensemble.greedy_weights(jnp.asarray(likelihoods, jnp.float32), size))
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        assert -np.log(weights @ likelihoods).mean() <= nll[first] + 1e-6


def test_a_member_that_is_sure_and_right_is_chosen_alone() -> None:
    """Nothing that is added to it helps; a likelihood of 0 is finite."""
    likelihoods = jnp.array([[0.5, 0.5], [1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(ensemble.greedy_weights(likelihoods, 5), [0, 1, 0])


# what validation images choose


def outputs(p: np.ndarray) -> Outputs:
    """Of probabilities [voters, n, classes]."""
    return Outputs(p.argmax(axis=2).astype(np.int32), p.mean(axis=0), {}, p.astype(np.float32))


def test_validation_chooses_the_best_member_and_the_collectors_weights_go_to_its_checkpoints() -> None:
    """A member is the mean of its views; a generator's members have no collector's weights."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, N).astype(np.int32)
    sets = {
        name: rng.dirichlet(np.ones(CLASSES), (4, N)) for name in ("base", "swa", "checkpoints", "identity", "bend")
    }
    sets["bend"][2:] = 0.9 * np.eye(CLASSES)[labels] + 0.1 * sets["bend"][2:]  # two views of the second member
    given = dict.fromkeys(("checkpoints", "identity"), np.array([1.0, 3.0]))
    members = {"base": 1, "swa": 1, "checkpoints": 2, "identity": 2, "bend": 2}
    chosen = scores.choose_weights({k: outputs(p) for k, p in sets.items()}, labels, members, given, 3)
    assert set(chosen) == {"checkpoints", "identity", "bend"}
    np.testing.assert_array_equal(chosen["bend"]["best"], [0, 1])
    np.testing.assert_allclose(chosen["bend"]["greedy"], [0, 1])
    assert [set(own) for own in chosen.values()] == [{"best", "greedy", "weighted"}] * 2 + [{"best", "greedy"}]
    np.testing.assert_array_equal(chosen["identity"]["weighted"], given["identity"])


def test_the_weighted_vote_is_the_same_on_validation_and_test() -> None:
    """The same weights on either side, over members and views."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(CLASSES), (4, N))
    own = outputs(p)
    weights = {"bend": {"greedy": np.array([0.25, 0.75])}}
    expected = (0.125 * p[:2].sum(axis=0) + 0.375 * p[2:].sum(axis=0)).astype(np.float32)
    votes = scores.all_votes({"bend": own}, {"bend": own._replace(weighted={"greedy": expected})}, weights, CLASSES)
    np.testing.assert_allclose(votes["bend"]["greedy"].validation, expected, atol=1e-6)
    np.testing.assert_array_equal(votes["bend"]["greedy"].test, expected)


def test_pools_are_votes_where_validation_has_them_too() -> None:
    """The pool of the collector's weights is, that of a greedy choice is not: no temperature could be fitted."""
    rng = np.random.default_rng(1)
    before, after = (outputs(rng.dirichlet(np.ones(CLASSES), (2, N))) for _ in range(2))
    before = before._replace(pools={"pool": before.mean, "weighted_pool": 2 * before.mean})
    after = after._replace(pools={"pool": after.mean, "weighted_pool": 3 * after.mean, "greedy_pool": after.mean})
    votes = scores.all_votes({"identity": before}, {"identity": after}, {}, CLASSES)["identity"]
    assert set(votes) == {"mean", "sbend", "pool", "weighted_pool"}
    np.testing.assert_array_equal(votes["weighted_pool"].validation, 2 * before.mean)
    np.testing.assert_array_equal(votes["weighted_pool"].test, 3 * after.mean)


# paired differences


def test_the_bootstrap_interval_of_paired_differences() -> None:
    """A normal sample's mean: its interval is mean +- 1.96 sd / sqrt(n); a constant difference has no width."""
    sample = np.random.default_rng(0).normal(0.3, 1.0, (1, 400))
    found = metrics.paired_bootstrap(sample, 2000)
    half = 1.96 * sample.std() / 20
    assert found.mean == pytest.approx(sample.mean())
    assert found.low == pytest.approx(sample.mean() - half, abs=0.12 * half)
    assert found.high == pytest.approx(sample.mean() + half, abs=0.12 * half)
    assert metrics.paired_bootstrap(np.full((3, 5), 0.5), 50) == (0.5, 0.5, 0.5)
    several = metrics.paired_bootstraps(np.stack([sample, 0 * sample]), 2000)
    np.testing.assert_allclose(several, [found, (0, 0, 0)], rtol=1e-12)


def test_seeds_are_blocks() -> None:
    """Images that always agree within a seed: the interval is that of the seeds, however many images there are."""
    by_seed = np.array([0.0, 1.0, 2.0, 3.0])
    found = metrics.paired_bootstrap(np.repeat(by_seed[:, None], 1000, axis=1), 4000)
    means = np.sort([np.mean(draw) for draw in itertools.product(by_seed, repeat=4)])
    low, high = np.percentile(means, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.26)
    assert found.high == pytest.approx(high, abs=0.26)
    assert found.high - found.low > 1


# long-tailed training sets


def test_a_long_tail_falls_geometrically() -> None:
    """Class sizes 100 * 10^(-c / 2), images and labels still together, and nothing changes for 1."""
    labels = np.repeat(np.arange(3, dtype=np.int32), 100)
    split = sources.Split(np.arange(300, dtype=np.uint8).reshape(300, 1, 1, 1), labels)
    found = splits._long_tailed(np.random.default_rng(0), split, 10.0)
    assert np.bincount(found.labels).tolist() == [100, 32, 10]
    assert all(np.flatnonzero(np.arange(300, dtype=np.uint8) == x[0, 0, 0]).size for x in found.images)
    own = {(int(x.ravel()[0]), int(y)) for x, y in zip(split.images, labels, strict=True)}
    assert {(int(x.ravel()[0]), int(y)) for x, y in zip(found.images, found.labels, strict=True)} <= own
    assert splits._long_tailed(np.random.default_rng(0), split, 1.0) is split


def test_views_of_a_vote_are_jitted_like_any_function() -> None:
    """A view inside a program is the view outside."""
    x = jnp.asarray(IMAGES)
    for view in augment.VIEWS:
        np.testing.assert_array_equal(
            jax.jit(augment.shifted_view, static_argnums=1)(x, view), augment.shifted_view(x, view)
        )
