"""What a trained network that was brought along does on the training images: whether it sees them as it was trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax.data import augment
from bend_jax.data.sources import Data, Split
from bend_jax.labelled import check_logits
from bend_jax.recipe import cross_entropy
from bend_jax.training import Model

IMAGES = 1000  # training images, at most
SURE = 4.0  # standard errors of a mean difference in loss

USUAL = {  # mean and std by channel; those of one number are for any number of channels
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-100's": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "pixels in [-1, 1]": ((0.5,), (0.5,)),
    "pixels in [0, 1]": ((0.0,), (1.0,)),
    "pixels from 0 to 255": ((0.0,), (1 / 255,)),
}


class Look(NamedTuple):
    """Accuracy on some training images, how many, and a warning or ""."""

    accuracy: float
    images: int
    warning: str


def look(model: Model, variables: Any, train: Split, settings: Data, batch: int) -> Look:
    """Classify up to 1,000 training images, normalised as the settings say and in the usual other ways.

    A network's loss on its training images is least as it was trained on them: that needs no other knowledge of it. It
    warns where the loss is less by at least four standard errors under another normalisation, and where the network
    does no better than chance. Of two that are nearly the same, such as ImageNet's and CIFAR-10's, the wrong one goes
    unseen: it costs little. Raises SettingsError for a network that gives NaN or Inf.
    """
    count = min(IMAGES, len(train.labels))
    batch = min(batch, count)
    rows = np.linspace(0, len(train.labels) - 1, count - count % batch).astype(int)
    images, labels = train.images[rows], train.labels[rows]
    apply = jax.jit(model.apply)

    def losses(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, float]:
        logits = [
            apply(variables, augment.normalise(jnp.asarray(images[i : i + batch]), mean, std))
            for i in range(0, len(rows), batch)
        ]
        all_logits = jnp.concatenate(logits)
        if (mean, std) == (settings.mean, settings.std):
            check_logits(np.asarray(all_logits), variables, "--init: the network")
        right = np.asarray(jnp.argmax(all_logits, axis=1)) == labels
        return np.asarray(cross_entropy(all_logits, jnp.asarray(labels)), np.float64), float(right.mean())

    own, accuracy = losses(settings.mean, settings.std)
    channels, best = images.shape[-1], ("", own.mean(), accuracy)
    for name, (mean, std) in USUAL.items():
        if len(mean) in (1, channels):
            mean, std = (mean * channels, std * channels) if len(mean) == 1 else (mean, std)
            other, right = losses(mean, std)
            gap = own - other
            if gap.mean() > SURE * gap.std() / len(rows) ** 0.5 and other.mean() < best[1]:
                told = f"--config.data.mean={mean} --config.data.std={std}".replace(", ", ",")
                best = (f"{name} ({told})", other.mean(), right)
    return Look(accuracy, len(rows), _warning(best[0], accuracy, best[2], labels))


def _warning(other: str, accuracy: float, right: float, labels: np.ndarray) -> str:
    """In words; other: the normalisation that is better, if any, with which the share `right` is right."""
    n, most = len(labels), np.bincount(labels).max() / len(labels)
    if right <= most + 3 * (most * (1 - most) / n) ** 0.5:
        return (
            f"the network gets {right:.1%} of {n} training images right, no more than chance, however they are "
            "normalised: was it trained on other images, another order of the classes or of the colour channels?"
        )
    if other:
        return (
            f"with data.mean and data.std as they are the network gets {accuracy:.1%} of {n} training images right, "
            f"with {other} {right:.1%}: was it trained with that normalisation?"
        )
    return ""
