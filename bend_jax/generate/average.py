"""`average`: one member, the mean of the checkpoints (SWA, Izmailov et al. 2018; p-diff's "ensemble")."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Average(Settings):
    """One member, the mean of the checkpoints: SWA, p-diff's "ensemble"."""


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Average, *, callbacks: Callbacks = SILENT
) -> Float[Array, " dim"]:
    """The mean."""
    return jnp.mean(vectors, axis=0)


@partial(jax.jit, static_argnames="m")
def sample(fitted: Float[Array, " dim"], key: Key[Array, ""], m: int) -> Float[Array, "1 dim"]:
    """The one member, whatever m."""
    return fitted[None]


GENERATOR = Generator("average", Average(), fit, sample, members=lambda m, k: 1)
