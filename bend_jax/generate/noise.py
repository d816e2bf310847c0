"""The null `noise`: the checkpoints' mean and white noise of their root mean square sd."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Noise(Settings):
    """A null: the checkpoints' mean and white noise of their root mean square sd."""

    scale: float = setting("of the spread", default=1.0, least=0)


class Fitted(flax.struct.PyTreeNode):
    """The mean, and one sd for all coordinates."""

    mean: Float[Array, " dim"]
    sd: Float[Array, ""]
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Noise, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """The mean, and the square root of the mean variance (over k)."""
    sd = jnp.sqrt(jnp.mean(jnp.var(vectors, axis=0)))
    return Fitted(jnp.mean(vectors, axis=0), sd, jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m draws of N(mean, scale^2 sd^2 I)."""
    return fitted.mean[None] + fitted.scale * fitted.sd * jax.random.normal(key, (m, fitted.mean.shape[0]))


GENERATOR = Generator("noise", Noise(), fit, sample, knob="scale")
