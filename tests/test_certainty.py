"""Vector scaling and Dirichlet calibration on votes whose right map is known, and the quality of sets by hand."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from bend_jax import metrics
from bend_jax.evaluation import calibration, certainty, uncertainty
from bend_jax.evaluation.predict import Outputs

CLASSES = 4
RNG = np.random.default_rng(0)
FACTORS, BIAS = np.array([0.5, 1.0, 1.5, 1.0]), np.array([0.8, -0.8, 0.0, 0.0])
MIXED = np.eye(CLASSES) + 0.6 * np.eye(CLASSES)[[1, 0, 3, 2]]


def drawn(n: int, change: Any, rng: np.random.Generator = RNG) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of n images, and labels that follow softmax(change(log p))."""
    x = special.log_softmax(2 * rng.normal(size=(n, CLASSES)), axis=1)
    true = special.softmax(change(x), axis=1)
    labels = (true.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1)
    return np.exp(x).astype(np.float32), labels.astype(np.int32)


def loss(p: np.ndarray, labels: np.ndarray) -> float:
    """Mean NLL."""
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


def fitted(kind: str, p: np.ndarray, labels: np.ndarray) -> calibration.Map:
    """The map, from the temperature that these images ask for."""
    found = calibration.fit(kind, p, labels, metrics.fit_temperature(jnp.asarray(p), jnp.asarray(labels)))
    assert found is not None
    return found


def test_vector_scaling_finds_factors_and_biases() -> None:
    """But for a constant, which no softmax sees; and a matrix is no gain on them."""
    p, labels = drawn(4000, lambda x: x * FACTORS + BIAS)
    found = fitted("vector", p, labels)
    np.testing.assert_allclose(found.weights[0], FACTORS, atol=0.2)
    np.testing.assert_allclose(found.bias - found.bias.mean(), BIAS, atol=0.25)
    q, others = drawn(4000, lambda x: x * FACTORS + BIAS)
    best = special.softmax(np.log(q) * FACTORS + BIAS, axis=1)
    assert loss(calibration.apply(found, q), others) == pytest.approx(loss(best, others), abs=0.005)


def test_dirichlet_calibration_finds_what_no_factor_of_a_class_can() -> None:
    """Classes that are mixed up in pairs."""
    p, labels = drawn(3000, lambda x: x @ MIXED.T)
    q, others = drawn(3000, lambda x: x @ MIXED.T)
    best = loss(special.softmax(np.log(q) @ MIXED.T, axis=1), others)
    losses = {kind: loss(calibration.apply(fitted(kind, p, labels), q), others) for kind in calibration.KINDS}
    assert losses["dirichlet"] == pytest.approx(best, abs=0.01)
    assert losses["vector"] > best + 0.03


@pytest.mark.parametrize("kind", calibration.KINDS)
def test_where_a_temperature_is_right_a_few_images_change_nothing(kind: str) -> None:
    """And where there are fewer of them than numbers there is no map."""
    p, labels = drawn(60, lambda x: x / 2)
    temperature = metrics.fit_temperature(jnp.asarray(p), jnp.asarray(labels))
    found = calibration.apply(fitted(kind, p, labels), p)
    np.testing.assert_allclose(found, metrics.scale_temperature(jnp.asarray(p), temperature), atol=1e-5)
    numbers = {"vector": 2 * CLASSES, "dirichlet": CLASSES * (CLASSES + 1)}[kind]
    assert calibration.fit(kind, p[: numbers - 1], labels[: numbers - 1], 1.0) is None
    assert calibration.fit(kind, p[:numbers], labels[:numbers], 1.0) is not None


def test_a_gain_within_its_standard_error_is_none() -> None:
    """Of eight draws of 60 images for which a temperature is right, no more than one departs from it."""
    departed = []
    for seed in range(8):
        p, labels = drawn(60, lambda x: x / 2, np.random.default_rng(seed))
        found = calibration.fit("vector", p, labels, 2.0)
        assert found is not None
        departed.append(np.ptp(found.weights) > 1e-9)
    assert sum(departed) <= 1


def test_maps_are_fitted_on_validation_images_and_measured_on_test_images() -> None:
    """With the test images' own labels they would have less NLL."""
    validation, test = drawn(500, lambda x: x * FACTORS), drawn(400, lambda x: x)
    rows = certainty.calibrations(validation, test, 1.0, 15)
    for kind, row in rows.items():
        found = calibration.fit(kind, *validation, 1.0)
        assert found is not None
        assert row is not None
        p = calibration.apply(found, test[0])
        assert row["nll"] == pytest.approx(loss(p, test[1]), rel=1e-4)
        one_hot = np.eye(CLASSES)[test[1]]
        assert row["brier"] == pytest.approx(((p - one_hot) ** 2).sum(axis=1).mean(), rel=1e-4)
    few = certainty.calibrations((validation[0][:15], validation[1][:15]), test, 1.0, 15)
    assert few["vector"] is not None
    assert few["dirichlet"] is None


def test_the_quality_of_sets_by_hand() -> None:
    """Four images of two classes; a third class has none, and counts for no class."""
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    assert certainty.quality(sets, np.array([0, 0, 0, 1])) == {"coverage": 0.5, "size": 1.0, "worst_class": 0.0}
    assert certainty.quality(sets, np.array([0, 1, 1, 0])) == {"coverage": 0.75, "size": 1.0, "worst_class": 0.5}


def test_doubt_is_what_members_share_and_what_they_differ_in() -> None:
    """Two members that are sure of different classes: all is epistemic; two that guess: all is aleatoric."""
    sure, guess = np.array([[1.0, 0.0], [0.0, 1.0]]), np.full((2, 2), 0.5)
    p = np.stack([sure, guess], axis=1).astype(np.float32)
    information = np.asarray(uncertainty.mutual_information(jnp.asarray(p)))
    own = Outputs(p.argmax(axis=2).astype(np.int32), p.mean(axis=0), {}, information=information)
    total, aleatoric, epistemic = certainty.parts(own)
    np.testing.assert_allclose(total, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(aleatoric, [0, np.log(2)], atol=1e-6)
    np.testing.assert_allclose(epistemic, [np.log(2), 0], atol=1e-6)
    found = certainty.right_and_wrong(own, np.array([True, True]))
    assert found is not None
    assert found["right"]["epistemic"] == pytest.approx(np.log(2) / 2)
    assert found["wrong"] == {"total": None, "aleatoric": None, "epistemic": None}
    assert certainty.right_and_wrong(own._replace(information=None), np.array([True, True])) is None
