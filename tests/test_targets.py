"""What is trained towards: label smoothing, mixup and labels that are probabilities, against gradients by hand."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax.checks import SettingsError
from bend_jax.collect import boosting, bootstrap, cyclical, trajectory
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.fine_tuning import mixed
from bend_jax.collect.trajectory import Trajectory
from bend_jax.recipe import cross_entropy
from bend_jax.subset import select
from bend_jax.training import Examples, Model
from tests.problems import QUICK, blobs, blobs_apply

N, CLASSES, LR = 12, 3, 0.3
ONE_STEP: dict[str, Any] = {"batch": N, "views": 1, "lr": LR, "momentum": 0.0, "weight_decay": 0.0}
KEY = jax.random.key(5)


def softmax_net() -> tuple[Model, Any, Any, np.ndarray, np.ndarray]:
    """Softmax regression on tanh features; its model, variables, images, features and labels."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(N, 4)).astype(np.float32)
    variables = {"params": {"head": {"kernel": jnp.asarray(rng.normal(size=(4, CLASSES)), jnp.float32)}}}
    model = Model(lambda v, x: jnp.tanh(x) @ v["params"]["head"]["kernel"])
    return model, variables, images, np.tanh(images).astype(np.float64), np.arange(N) % CLASSES


def step_by_hand(features: np.ndarray, targets: np.ndarray, kernel: Any) -> np.ndarray:
    """Kernel after one step of gradient descent on the mean cross-entropy: x^T (softmax - target) / n."""
    logits = features @ np.asarray(kernel, np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(kernel) - LR * features.T @ (p - targets) / len(features)


def collected(module: Any, settings: Any, labels: Any) -> np.ndarray:
    """The last checkpoint of a collector on the softmax net."""
    model, variables, images, _, _ = softmax_net()
    examples = Examples(jnp.asarray(images), jnp.asarray(labels), lambda keys, x, index: x, lambda x: x)
    found = module.collect(model, variables, select(variables, ["head"]), examples, KEY, settings)
    return np.asarray(found.vectors[-1]).reshape(4, CLASSES)


def test_the_cross_entropy_of_whole_numbers_probabilities_and_smoothed_targets() -> None:
    """-log p_y; -sum q log p; and (1 - s) of the first with s of the mean of -log p over classes."""
    logits = jnp.asarray([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    log_p = np.asarray(logits) - np.log(np.exp(np.asarray(logits)).sum(axis=1, keepdims=True))
    hard, soft = np.array([0, 2]), np.array([[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(hard)), -log_p[[0, 1], hard], rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(soft)), -(soft * log_p).sum(axis=1), rtol=1e-6)
    smooth = -0.8 * log_p[[0, 1], hard] - 0.2 * log_p.mean(axis=1)
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(hard), 0.2), smooth, rtol=1e-6)


@pytest.mark.parametrize(("soft", "smoothing"), [(False, 0.3), (True, 0.0)], ids=["smoothed", "probabilities"])
@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (trajectory, Trajectory(k=1, **ONE_STEP)),
        (cyclical, Cyclical(k=2, epochs=1, **ONE_STEP)),
        (bootstrap, Bootstrap(k=1, epochs=1, resample=False, **ONE_STEP)),
        (boosting, Boosting(k=2, epochs=1, eta=1e-7, **ONE_STEP)),
    ],
    ids=["trajectory", "cyclical", "bootstrap", "boosting"],
)
def test_every_collector_trains_towards_its_targets(module: Any, settings: Any, soft: bool, smoothing: float) -> None:
    """One step on all images, by hand."""
    _, variables, _, features, labels = softmax_net()
    own = np.random.default_rng(0).dirichlet(np.ones(CLASSES), N).astype(np.float32) if soft else labels
    targets = (1 - smoothing) * (own if soft else np.eye(CLASSES)[labels]) + smoothing / CLASSES
    settings = replace(settings, label_smoothing=smoothing)
    if module is boosting and soft:
        with pytest.raises(SettingsError, match="boosting counts errors"):
            collected(module, settings, own)
        return
    wanted = step_by_hand(features, targets, variables["params"]["head"]["kernel"])
    np.testing.assert_allclose(collected(module, settings, own), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "settings"),
    [(trajectory, Trajectory(k=1, mixup=0.4, **ONE_STEP)), (cyclical, Cyclical(k=2, epochs=1, mixup=0.4, **ONE_STEP))],
    ids=["trajectory", "cyclical"],
)
def test_mixup_mixes_features_and_targets_alike(module: Any, settings: Any) -> None:
    """One step by hand: the same share of each image's features and of its target; the rest is its neighbour's."""
    _, variables, _, features, labels = softmax_net()
    key = KEY if module is trajectory else jax.random.split(KEY)[0]
    _, key_order, key_steps = jax.random.split(key, 3)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key_order, 0), N))
    share = float(jax.random.beta(jax.random.fold_in(jax.random.fold_in(key_steps, 0), 2**31), 0.4, 0.4))
    assert 0.01 < share < 0.99, "else hardly anything is mixed"
    x, y = features[order], np.eye(CLASSES)[labels[order]]
    x, y = (share * a + (1 - share) * np.roll(a, 1, axis=0) for a in (x, y))
    wanted = step_by_hand(x, y, variables["params"]["head"]["kernel"])
    np.testing.assert_allclose(collected(module, settings, labels), wanted, atol=1e-5)


def test_whole_numbers_cannot_be_mixed() -> None:
    """Tokens that the subset itself reads."""
    with pytest.raises(SettingsError, match="mixup needs features that are real numbers, and the subset reads int32"):
        mixed({"tokens": jnp.zeros((4, 2), jnp.int32)}, jnp.float32(0.5))


def fitted(labels: Any, **changes: Any) -> bend_jax.Ensemble:
    """`fit` on blobs, without validation."""
    variables, images, _ = blobs()
    settings: dict[str, Any] = {"subset": "head", "collect": Trajectory(k=3, batch=16), "generate": QUICK, "members": 3}
    return bend_jax.fit(blobs_apply, variables, images, labels, **(settings | changes))


@pytest.mark.filterwarnings("ignore:no validation images")
def test_fit_takes_probabilities_as_labels() -> None:
    """One-hot rows give the checkpoints of whole numbers, other rows other ones."""
    labels = blobs()[2]
    hard, soft, other = (
        np.asarray(fitted(given).checkpoints.vectors)
        for given in (labels, np.eye(3)[labels], 0.5 * np.eye(3)[labels] + 0.5 / 3)
    )
    np.testing.assert_allclose(soft, hard, atol=1e-6)
    assert np.abs(other - hard).max() > 1e-5


def broken(row: list[float]) -> np.ndarray:
    """Uniform probabilities, but for image 2."""
    labels = np.full((80, 3), 1 / 3)
    labels[2] = row
    return labels


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (broken([0.5, 0.5, 0.5]), {}, "those of image 2 sum to 1.5"),
        (broken([1.5, -0.5, 0.0]), {}, "the least is -0.5"),
        (broken([np.nan, 0.5, 0.5]), {}, "those of image 2 sum to nan"),
        (np.full((80, 4), 1 / 4), {}, "labels have 4 probabilities an image; apply gives 3 classes"),
        (np.full((80, 3), 1 / 3), {"unseen": True}, "a row of whole numbers, one for each image; float64"),
        (np.ones((80, 3), int), {}, r"whole numbers, one for each image, or probabilities \[n, classes\]; int64"),
        (np.full((79, 3), 1 / 3), {}, "80 images and 79 labels"),
    ],
)
def test_labels_that_are_no_probabilities_are_refused(labels: Any, changes: Any, message: str) -> None:
    """Before any training."""
    with pytest.raises(SettingsError, match=message):
        fitted(labels, **changes)


def test_validation_needs_the_truth() -> None:
    """Probabilities are targets of a training; a temperature is fitted to labels."""
    _, images, labels = blobs()
    with pytest.raises(SettingsError, match="validation images: labels must be a row of whole numbers"):
        fitted(labels, validation=(images, np.eye(3)[labels]))
