"""BN statistics: measured on minibatches by hand, whatever the running average forgets, or drifting in a training."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bend_jax.api import collect_checkpoints
from bend_jax.batch_norm import batch_statistics, recompute
from bend_jax.checks import SettingsError
from bend_jax.collect import mc_bn, trajectory
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.subset import flatten, insert, select
from bend_jax.training import Examples, Model
from tests.problems import BATCH, N, Problem, coordinates, dense, fine_tune, momentum_sgd, view


class Net(nn.Module):
    """A linear layer and one BN layer."""

    momentum: float

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """Logits [n, 4]."""
        return nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(nn.Dense(4)(x))


@cache
def linen(momentum: float, size: float) -> tuple[Any, Any, Any]:
    """(train_apply, variables, activations of images) of that net, with activations of this size."""
    net = Net(momentum)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 3)))
    dense = jax.tree.map(lambda x: size * (x + 0.3), variables["params"]["Dense_0"])
    variables = {**variables, "params": {**variables["params"], "Dense_0": dense}}

    def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
        logits, new = net.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, {**variables, **new}

    kernel, bias = (np.asarray(dense[name], np.float64) for name in ("kernel", "bias"))
    return train_apply, variables, lambda images: np.asarray(images, np.float64) @ kernel + bias


@pytest.mark.parametrize("old", [0.0, -7.0, 3e4], ids=["from 0", "from -7", "from 30,000"])
@pytest.mark.parametrize(("momentum", "size"), [(0.9, 1.0), (0.99, 1000.0), (0.0, 1.0), (0.5, 1e-3)])
def test_one_minibatch_has_its_mean_and_variance(momentum: float, size: float, old: float) -> None:
    """By hand from the activations before BN, for any momentum, any scale and any old running values."""
    train_apply, variables, activations = linen(momentum, size)
    images = jax.random.normal(jax.random.key(1), (16, 3))
    begun = {**variables, "batch_stats": jax.tree.map(lambda x: x + old, variables["batch_stats"])}
    found = batch_statistics(train_apply, begun, ("batch_stats",), images, jax.random.key(2))["batch_stats"][
        "BatchNorm_0"
    ]
    hidden = activations(images)
    # a variance is taken as E[x^2] - E[x]^2 in float32
    np.testing.assert_allclose(found["mean"], hidden.mean(0), rtol=1e-4, atol=1e-4 * size)
    np.testing.assert_allclose(found["var"], hidden.var(0), rtol=2e-4, atol=1e-6 * (hidden**2).mean())


def test_integer_leaves_stay_as_they_are() -> None:
    """A counter of minibatches among the statistics is no average of anything."""

    def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
        old = variables["batch_stats"]
        new = {"mean": 0.9 * old["mean"] + 0.1 * images.mean(0), "count": old["count"] + 1}
        return images, {**variables, "batch_stats": new}

    images = jax.random.normal(jax.random.key(1), (8, 5))
    variables = {"params": {}, "batch_stats": {"mean": jnp.ones(5), "count": jnp.int32(7)}}
    found = batch_statistics(train_apply, variables, ("batch_stats",), images, jax.random.key(0))["batch_stats"]
    assert found["count"].dtype == jnp.int32
    assert int(found["count"]) == 7
    np.testing.assert_allclose(found["mean"], images.mean(0), atol=1e-6)
    subset = select({"params": {}, "batch_stats": {"mean": jnp.ones(5)}}, ["batch_stats.mean"])
    examples = Examples(images, jnp.zeros(8, jnp.int32), lambda keys, x, index: x, lambda x: x)
    model = Model(lambda variables, images: images, train_apply)
    vectors = recompute(model, variables, subset, jnp.ones((1, 5)), examples, jax.random.key(0), 8, 8)
    np.testing.assert_allclose(vectors[0], images.mean(0), atol=1e-6)


def test_what_is_no_running_average_stays_as_it_is() -> None:
    """Constants in another collection are read, not probed; statistics of a frozen layer are kept."""

    def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
        hidden, old = images - variables["constants"]["shift"][None], variables["batch_stats"]
        new = {"frozen": old["frozen"], "free": 0.9 * old["free"] + 0.1 * hidden.mean(0)}
        return hidden, {**variables, "batch_stats": new}

    images = jax.random.normal(jax.random.key(0), (8, 3))
    statistics = {"frozen": jnp.full(3, 5.0), "free": jnp.zeros(3)}
    variables = {"params": {}, "constants": {"shift": jnp.ones(3)}, "batch_stats": statistics}
    found = batch_statistics(train_apply, variables, ("batch_stats",), images, jax.random.key(0))
    assert set(found) == {"batch_stats"}
    np.testing.assert_array_equal(found["batch_stats"]["frozen"], statistics["frozen"])
    np.testing.assert_allclose(found["batch_stats"]["free"], images.mean(0) - 1, atol=1e-5)


def drawn(examples: Examples, key: Any, count: int) -> np.ndarray:
    """The augmented images that a measurement with this key looks at."""
    key_index, key_view = jax.random.split(jax.random.split(key)[0])
    index = jax.random.permutation(key_index, N)[:count]
    return np.asarray(view(jax.random.split(key_view, count), examples.images[index]), np.float64)


def moments(problem: Problem, vector: Any, images: Any) -> np.ndarray:
    """[mean, variance] of the activations before BN, as the vector's coordinates have them."""
    _, variables, subset, _ = problem
    hidden = images @ np.asarray(insert(subset, variables, vector)["params"]["first"]["kernel"], np.float64)
    return np.concatenate([hidden.mean(0), hidden.var(0)])


def test_recomputed_statistics_are_the_mean_over_minibatches_under_each_vector() -> None:
    """20 images are two minibatches of 8, the same ones for every vector; parameters are not touched."""
    net = dense("first", "batch_stats.bn")
    model, variables, subset, examples = net
    base = flatten(subset, variables)
    vectors = jnp.stack([base, 2 * base + 0.1])
    is_statistic = coordinates(subset, "batch_stats.")
    found = np.asarray(recompute(model, variables, subset, vectors, examples, jax.random.key(5), 20, BATCH))
    np.testing.assert_array_equal(found[:, ~is_statistic], np.asarray(vectors)[:, ~is_statistic])
    images = drawn(examples, jax.random.key(5), 16)
    for row, vector in zip(found, vectors, strict=True):
        expected = np.mean([moments(net, vector, part) for part in (images[:8], images[8:])], axis=0)
        np.testing.assert_allclose(row[is_statistic], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(found[0] - found[1])[is_statistic].max() > 0.1


@pytest.mark.parametrize(("count", "batch", "used"), [(10**6, 8, 24), (3, 8, 8), (10**6, 10**6, N)])
def test_as_many_images_as_there_are(count: int, batch: int, used: int) -> None:
    """At least one minibatch, at most those of the training set, which is one where the batch is larger."""
    net = dense("batch_stats.bn")
    model, variables, subset, examples = net
    base = flatten(subset, variables)
    found = recompute(model, variables, subset, base[None], examples, jax.random.key(5), count, batch)[0]
    images = drawn(examples, jax.random.key(5), used)
    expected = np.mean([moments(net, base, p) for p in images.reshape(-1, min(batch, N), 5)], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("patterns", ["batch_stats", "*"])
def test_mc_bn_is_the_base_with_the_statistics_of_one_minibatch_each(patterns: str) -> None:
    """k augmented minibatches of different images; the parameters are the base's."""
    net = dense(patterns)
    model, variables, subset, examples = net
    key, base = jax.random.key(6), flatten(subset, variables)
    found = mc_bn.collect(model, variables, subset, examples, key, McBn(k=3, batch=BATCH))
    assert found.weights is None
    is_statistic = coordinates(subset, "batch_stats.")
    for i, row in enumerate(np.asarray(found.vectors)):
        np.testing.assert_array_equal(row[~is_statistic], np.asarray(base)[~is_statistic])
        images = drawn(examples, jax.random.fold_in(key, i), BATCH)
        np.testing.assert_allclose(row[is_statistic], moments(net, base, images), rtol=1e-3, atol=1e-4)
    assert np.ptp(np.asarray(found.vectors), axis=0)[is_statistic].min() > 1e-3


def test_mc_bn_refuses_a_subset_without_statistics_and_a_model_that_cannot_measure_them() -> None:
    """In one line each."""
    for patterns, lacks, message in (("bn", False, "subset 'batch_stats'"), ("*", True, r"train_apply\(")):
        model, variables, subset, examples = dense(patterns)
        model = model._replace(train_apply=None) if lacks else model
        with pytest.raises(SettingsError, match=message) as error:
            collect_checkpoints(model, variables, examples, subset=subset, collect=McBn(k=2, batch=BATCH))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("patterns", "statistics"),
    [(("first", "bn"), "drift"), (("*",), "drift"), (("*",), "frozen")],
    ids=["drift", "everything, drift", "everything"],
)
def test_statistics_drift_with_newly_augmented_images(patterns: tuple[str, ...], statistics: str) -> None:
    """The vectors of a plain loop in training mode, and the running statistics where the subset holds them."""
    settings = Trajectory(k=3, batch=BATCH, lr=0.05, statistics=statistics)
    key = jax.random.key(5)
    net = dense(*patterns)
    found = np.asarray(trajectory.collect(*net, key, settings).vectors)
    keys = jax.random.split(key, 3)
    expected = np.stack(list(fine_tune(net, keys, settings, momentum_sgd(settings), 3, whole=True)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    _, variables, subset, _ = net
    is_statistic = coordinates(subset, "batch_stats.")
    assert is_statistic.sum() == (12 if patterns == ("*",) else 0)
    for part in (is_statistic, ~is_statistic):
        if part.any():
            moves = np.abs(np.diff([np.asarray(flatten(subset, variables)), *found], axis=0))[:, part]
            assert (moves.max(axis=1) > 1e-2).all()


def test_frozen_statistics_give_other_vectors_than_drifting_ones() -> None:
    """The same training on the same order of images otherwise; the frozen one never looks at train_apply."""
    model, *rest = dense("first", "bn")
    key = jax.random.key(5)
    drift, frozen = (
        trajectory.collect(model, *rest, key, Trajectory(k=2, batch=BATCH, lr=0.05, statistics=s)).vectors
        for s in ("drift", "frozen")
    )
    alone = trajectory.collect(model._replace(train_apply=None), *rest, key, Trajectory(k=2, batch=BATCH, lr=0.05))
    np.testing.assert_array_equal(frozen, alone.vectors)
    assert float(jnp.abs(drift - frozen).max()) > 1e-2


@pytest.mark.parametrize(
    ("patterns", "settings"),
    [
        ("bn", Trajectory(statistics="drift")),
        ("*", Trajectory()),
        ("*", Bootstrap()),
        ("*", Cyclical()),
        ("batch_stats", Boosting()),
        ("batch_stats", McBn()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_statistics_that_move_need_a_train_apply(patterns: str, settings: Any) -> None:
    """One line that says so, before anything is trained."""
    model, variables, subset, examples = dense(patterns)
    with pytest.raises(SettingsError, match=r"train_apply\(variables, images, key\)") as error:
        collect_checkpoints(model._replace(train_apply=None), variables, examples, subset=subset, collect=settings)
    assert "\n" not in str(error.value)
