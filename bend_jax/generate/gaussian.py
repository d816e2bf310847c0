"""The null `gaussian`: an independent Gaussian for every coordinate, with the checkpoints' mean and variance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.settings import Gaussian
from bend_jax.training import SILENT, Watch


class Fitted(NamedTuple):
    """Mean and sd of every coordinate."""

    mean: Float[Array, " dim"]
    sd: Float[Array, " dim"]


def fit(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Gaussian, *, watch: Watch = SILENT) -> Fitted:
    """The moments of the k vectors (variance over k)."""
    return Fitted(jnp.mean(vectors, axis=0), jnp.std(vectors, axis=0))


def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m draws."""
    return fitted.mean[None] + fitted.sd[None] * jax.random.normal(key, (m, fitted.mean.shape[0]))
