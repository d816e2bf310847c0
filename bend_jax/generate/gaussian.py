"""The null `gaussian`: an independent Gaussian for every coordinate, with the checkpoints' mean and variance."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Gaussian(Settings):
    """A null: an independent Gaussian for every coordinate."""

    scale: float = setting("of the spread", default=1.0, least=0)


class Fitted(flax.struct.PyTreeNode):
    """Mean and sd of every coordinate."""

    mean: Float[Array, " dim"]
    sd: Float[Array, " dim"]
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Gaussian, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """The moments of the k vectors (variance over k)."""
    return Fitted(jnp.mean(vectors, axis=0), jnp.std(vectors, axis=0), jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m draws of N(mean, scale^2 diag(sd^2))."""
    eps = jax.random.normal(key, (m, fitted.mean.shape[0]))
    return fitted.mean[None] + (fitted.scale * fitted.sd)[None] * eps


GENERATOR = Generator("gaussian", Gaussian(), fit, sample, knob="scale")
