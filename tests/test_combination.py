"""Several networks vote together: weights and temperatures that are known, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import conformal, metrics
from bend_jax.checks import SettingsError
from bend_jax.combination import fit_weights
from bend_jax.ensemble import pool_vote, weighted_vote
from bend_jax.storage import DamagedError
from tests.problems import blobs, blobs_apply, fitted_once

ROOT = Path(__file__).parents[1]
CLASSES = 4


def opinions(networks: int, n: int = 3000) -> jax.Array:
    """Log-probabilities [networks, n, classes] that have nothing to do with each other."""
    return jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(3), (networks, n, CLASSES)), axis=-1)


def linear(variables: Any, images: Any) -> Any:
    """Another network for the images of `blobs`: one layer, its parameters a list."""
    return images @ variables[0] + variables[1][None]


def two() -> list[tuple[Any, Any]]:
    """Two architectures on the images of `blobs`, the first with a head of least squares."""
    variables, images, labels = blobs()
    hidden = variables["params"]["hidden"]
    head = np.linalg.lstsq(np.tanh(images @ hidden["kernel"]), 6 * np.eye(3)[labels], rcond=None)[0]
    params = {"hidden": hidden, "head": {"kernel": head.astype(np.float32), "bias": np.zeros(3, np.float32)}}
    return [(blobs_apply, {"params": params}), (linear, [2 * jnp.eye(5, 3), jnp.zeros(3)])]


def logits_as_images(networks: int) -> list[tuple[Any, Any]]:
    """Networks whose logits are the images [n, networks, classes] themselves."""
    return [(lambda v, x, i=i: x[:, i] * v["scale"], {"scale": jnp.float32(1)}) for i in range(networks)]


# weights


def test_weights_and_temperature_of_a_planted_pool_are_found() -> None:
    """Labels are drawn from softmax(sum_i a_i log p_i): the weights are a / sum(a), the temperature is 1 / sum(a)."""
    log_p, a = opinions(3, 20000), jnp.array([0.1, 0.4, 0.0])
    labels = jax.random.categorical(jax.random.key(4), jnp.tensordot(a, log_p, 1))
    weights = fit_weights("pool", log_p, labels)
    np.testing.assert_allclose(weights, [0.2, 0.8, 0.0], atol=0.03)
    pool = pool_vote(log_p, jnp.asarray(weights, jnp.float32))
    assert metrics.fit_temperature(pool, labels) == pytest.approx(2, rel=0.05)


def test_weights_of_a_planted_mean_are_found() -> None:
    """Labels are drawn from .2 p_0 + .8 p_1."""
    log_p = opinions(3, 20000)
    mean = jnp.tensordot(jnp.array([0.2, 0.8, 0.0]), jnp.exp(log_p), 1)
    labels = jax.random.categorical(jax.random.key(4), jnp.log(mean))
    np.testing.assert_allclose(fit_weights("mean", log_p, labels), [0.2, 0.8, 0.0], atol=0.03)


@pytest.mark.parametrize(("vote", "rule"), [("mean", weighted_vote), ("pool", pool_vote)])
def test_the_weights_are_a_minimum(vote: str, rule: Any) -> None:
    """At its best temperature no other weights near by have less NLL, and neither has one network alone."""
    log_p = opinions(3)
    labels = jax.random.categorical(jax.random.key(6), log_p[0] / 2 + log_p[2])

    def loss(weights: Any) -> float:
        p = rule(log_p, jnp.asarray(weights, jnp.float32))
        temperature = metrics.fit_temperature(p, labels) if vote == "pool" else 1.0
        return float(metrics.nll(metrics.scale_temperature(p, temperature), labels))

    weights = fit_weights(vote, log_p, labels)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    least, rng = loss(weights), np.random.default_rng(0)
    others = [*np.eye(3), *(weights + 0.05 * np.abs(rng.normal(size=(10, 3))))]
    assert all(loss(other) >= least - 1e-6 for other in others)
    assert loss(np.eye(3)[1]) > least + 0.1


@pytest.mark.parametrize("vote", ["mean", "pool"])
def test_a_network_that_knows_nothing_gets_no_weight(vote: str) -> None:
    """Beside one that does, however sure it is."""
    log_p = opinions(2)
    labels = jax.random.categorical(jax.random.key(7), log_p[0])
    assert fit_weights(vote, log_p.at[1].multiply(3), labels)[0] > 0.97


def test_weights_are_fitted_only_where_held_out_images_show_a_gain() -> None:
    """Of two networks that are as good as each other 60 images tell nothing, and weights fitted on them are far from
    equal; of a network and the same one with noise on its logits 1,000 tell enough."""
    log_p = opinions(2, 60)
    labels = jax.random.categorical(jax.random.key(14), log_p.mean(axis=0))
    assert abs(fit_weights("pool", log_p, labels)[0] - 0.5) > 0.05
    networks = logits_as_images(2)
    found = bend_jax.combine(networks, validation=(np.asarray(log_p).transpose(1, 0, 2), np.asarray(labels)))
    np.testing.assert_array_equal(found.weights, [0.5, 0.5])
    log_p = opinions(2, 1000)
    labels = jax.random.categorical(jax.random.key(9), log_p[0])
    log_p = log_p.at[1].set(log_p[0] + 2 * log_p[1])
    found = bend_jax.combine(networks, validation=(np.asarray(log_p).transpose(1, 0, 2), np.asarray(labels)))
    assert found.weights[0] > 0.9


def test_networks_that_are_all_useless_are_weighted_alike() -> None:
    """Where every a is 0 there is no a / sum(a): labels are each network's least probable class."""
    log_p = jnp.stack([opinions(1)[0]] * 2)
    labels = jnp.argmin(log_p[0], axis=1)
    np.testing.assert_array_equal(fit_weights("pool", log_p, labels), [0.5, 0.5])


# combine


def test_networks_of_two_architectures_and_an_ensemble_vote_together(tmp_path: Path) -> None:
    """Each network's opinion once, by hand; the vote is better on validation than the best one alone; and from disk."""
    _, images, labels = blobs(70)
    given = [*two(), fitted_once()]
    found = bend_jax.combine(given, validation=(images, labels))
    y = jnp.asarray(labels, jnp.int32)
    losses = [float(metrics.nll(jnp.asarray(own.predict_proba(images)), y)) for own in (found, *found.networks)]
    assert losses[0] < min(losses[1:])
    z = [*(apply(variables, images) for apply, variables in two()), None]
    z[2] = jnp.log(fitted_once().replace(temperature=1.0).predict_proba(images))
    p = jnp.stack([jax.nn.log_softmax(x / own.temperature) for x, own in zip(z, found.networks, strict=True)])
    for x, own in zip(z, found.networks, strict=True):
        assert own.temperature == pytest.approx(metrics.fit_temperature(jax.nn.softmax(x), y), rel=1e-3)
    vote = {"mean": weighted_vote, "pool": pool_vote}[found.vote](p, jnp.asarray(found.weights, jnp.float32))
    expected = metrics.scale_temperature(vote, found.temperature)
    np.testing.assert_allclose(found.predict_proba(images), expected, atol=1e-5)
    np.testing.assert_array_equal(found.predict(images), found.predict_proba(images).argmax(axis=1))
    logits = found.member_logits(images)
    assert logits.shape == (1 + 1 + 6, 70, 3)
    np.testing.assert_allclose(logits[1], linear(two()[1][1], images), atol=1e-5)
    assert isinstance(logits, np.ndarray)
    assert isinstance(found.predict_proba(images), np.ndarray)

    found = found.replace(vote="pool", networks=(*found.networks[:2], found.networks[2].replace(vote="pool")))
    found.save(tmp_path / "saved")
    applies = [blobs_apply, linear, blobs_apply]
    trees = [None, two()[1][1], None]
    again = bend_jax.load_combination(tmp_path / "saved", applies, trees)
    np.testing.assert_array_equal(again.predict_proba(images), found.predict_proba(images))
    assert (again.vote, again.networks[2].vote, again.temperature) == ("pool", "pool", found.temperature)
    with pytest.raises(FileExistsError, match="nothing was written"):
        found.save(tmp_path / "saved")
    with pytest.raises(SettingsError, match="has 3 networks: give one apply for each"):
        bend_jax.load_combination(tmp_path / "saved", applies[:2])
    with pytest.raises(FileNotFoundError, match="no saved combination"):
        bend_jax.load_combination(tmp_path, applies)
    file = tmp_path / "saved" / "network_1" / "ensemble.json"
    file.write_text(file.read_text().replace("1.0", "2.0"))
    with pytest.raises(DamagedError, match="save the combination again"):
        bend_jax.load_combination(tmp_path / "saved", applies, trees)


def test_a_combination_is_a_pytree() -> None:
    """jit, vmap over temperatures, and the gradient of the NLL in the weights, which is its rise along them."""
    _, images, labels = blobs(40)
    found = bend_jax.combine(two(), validation=(images, labels), votes=("pool",))
    x = jnp.asarray(images)
    np.testing.assert_allclose(jax.jit(lambda c, x: c.predict_proba(x))(found, x), found.predict_proba(x), atol=1e-6)
    assert jax.jit(lambda c, x: c.member_logits(x))(found, x).shape == (2, 40, 3)
    scaled = jax.vmap(lambda t: found.replace(temperature=t).predict_proba(x))(jnp.array([1.0, found.temperature]))
    np.testing.assert_allclose(scaled[1], found.predict_proba(x), atol=1e-6)

    def loss(weights: Any) -> Any:
        return metrics.nll(found.replace(weights=weights).predict_proba(x), jnp.asarray(labels, jnp.int32))

    step = jnp.array([0.05, -0.05])
    rise = float(loss(jnp.array([0.5, 0.5]) + step) - loss(jnp.array([0.5, 0.5]) - step))
    assert float(jax.grad(loss)(jnp.array([0.5, 0.5])) @ (2 * step)) == pytest.approx(rise, rel=0.02)
    assert abs(rise) > 1e-4


def test_without_validation_weights_are_equal_and_that_is_told() -> None:
    """The mean of probabilities, at a temperature of 1; another first vote is taken by its name."""
    _, images, _ = blobs(20)
    with pytest.warns(UserWarning, match="all weights are equal, the vote is 'mean' and the temperature 1"):
        found = bend_jax.combine(two())
    p = [np.asarray(jax.nn.softmax(apply(variables, images))) for apply, variables in two()]
    np.testing.assert_allclose(found.predict_proba(images), (p[0] + p[1]) / 2, atol=1e-6)
    with pytest.warns(UserWarning, match="the vote is 'pool'"):
        found = bend_jax.combine(two(), votes=("pool",))
    pool = np.sqrt(p[0] * p[1])
    np.testing.assert_allclose(found.predict_proba(images), pool / pool.sum(axis=1, keepdims=True), atol=1e-5)


def test_the_vote_is_chosen_by_validation() -> None:
    """Two networks whose images are their logits: labels from their pool, and from their mean."""
    log_p = np.asarray(opinions(2)).transpose(1, 0, 2)
    draws = {"pool": log_p.mean(axis=1), "mean": np.log(np.exp(log_p).mean(axis=1))}
    for vote, logits in draws.items():
        labels = np.asarray(jax.random.categorical(jax.random.key(8), jnp.asarray(logits)))
        found = bend_jax.combine(logits_as_images(2), validation=(log_p, labels))
        assert found.vote == vote
        np.testing.assert_allclose(found.weights, 0.5, atol=0.05)


def test_its_sets_are_those_of_its_own_vote(tmp_path: Path) -> None:
    """By every method calibrated on the probabilities of `predict_proba` on the validation images, which LAC's cover
    as often as was asked for; the same from disk. What cannot be promised is refused."""
    _, images, labels = blobs(70)
    found = bend_jax.combine(two(), validation=(images, labels))
    found.save(tmp_path / "saved")
    again = bend_jax.load_combination(tmp_path / "saved", [blobs_apply, linear], [None, two()[1][1]])
    p = found.predict_proba(images)
    calibrated, scores = conformal.calibrate(p, labels), conformal.scores(p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.calibration, calibrated)
    for method in conformal.METHODS:
        own = found.predict_set(images, 0.8, method)
        assert (own != conformal.sets(calibrated, scores, method, 0.8)).mean() < 0.02  # rounding at the threshold
        np.testing.assert_array_equal(again.predict_set(images, 0.8, method), own)
    assert found.predict_set(images, 0.8)[np.arange(70), labels].sum() == conformal.place(70, 0.8)
    for words, message in (
        ({"coverage": 90.0}, "coverage must be a number in"),
        ({"coverage": 0.99}, "needs at least 99 calibration images; 70 came"),
        ({"method": "asp"}, "did you mean 'aps'"),
    ):
        with pytest.raises(SettingsError, match=message):
            found.predict_set(images, **words)
    with pytest.raises(SettingsError, match="nothing to calibrate conformal sets with"):
        found.replace(calibration=None).predict_set(images)


IMAGES, LABELS = blobs(30)[1:]


@pytest.mark.parametrize(
    ("networks", "changes", "message"),
    [
        ([], {}, "at least one; got an empty one"),
        (blobs_apply, {}, "networks is a list of .* got function"),
        ([blobs_apply], {}, r"network 0 must be \(apply, variables\), a module or an Ensemble; got function"),
        ((blobs_apply, blobs()[0]), {}, "network 0 must be .* got function"),
        ([(blobs_apply, blobs()[0], "head")], {}, "network 0 must be .* got tuple of function, dict, str"),
        (None, {"votes": ("majority",)}, "votes are some of mean, pool"),
        (None, {"validation": (IMAGES, LABELS[:4])}, "there are 30 images and 4 labels"),
        (None, {"validation": (IMAGES, np.full(30, 2))}, "all validation labels are 2: .* at least two classes"),
        (None, {"validation": (IMAGES[:, :4], LABELS)}, "network 0: apply.* does not take validation images"),
        (
            [two()[0], (lambda v, x: x, [])],
            {},
            r"different numbers \(network 0: 3, network 1: 5\)",
        ),
        ([two()[0], (lambda v, x: x[:, :2], [])], {}, "network 1: .*labels go from 0 to 2; apply gives 2 classes"),
        ([two()[0], (lambda v, x: jax.nn.softmax(x[:, :3]), [])], {}, "network 1: apply returns probabilities"),
        ([two()[0], (lambda v, x: x[:, :3] - x[:, :3].mean(0)[None], [])], {}, "network 1: .* treat each image by"),
        ([two()[0], (lambda v, x: jnp.where(x[:, :3] > 2, jnp.nan, 1), [])], {}, "network 1: the network gives NaN"),
    ],
)
def test_what_does_not_fit_is_refused(networks: Any, changes: dict[str, Any], message: str) -> None:
    """In one line that names the network."""
    with pytest.raises(SettingsError, match=message) as caught:
        bend_jax.combine(two() if networks is None else networks, **({"validation": (IMAGES, LABELS)} | changes))
    assert len(str(caught.value)) < 300


def test_different_classes_are_told_without_validation_too() -> None:
    """At the first prediction, since no image is known before."""
    with pytest.warns(UserWarning, match="no validation images"):
        found = bend_jax.combine([two()[0], (lambda v, x: x, [])])
    with pytest.raises(SettingsError, match=r"different numbers \(network 0: 3, network 1: 5\)"):
        found.predict_proba(IMAGES)


@pytest.mark.slow
def test_the_example_runs() -> None:
    """It prints the networks alone and their vote, which has less NLL than any of them."""
    done = subprocess.run(
        [sys.executable, "examples/combine.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    loss = {line[:18].strip(): float(line.split()[-1]) for line in done.stdout.splitlines()[1:5]}
    assert len(loss) == 4
    assert loss.pop("vote of all three") < min(loss.values())
