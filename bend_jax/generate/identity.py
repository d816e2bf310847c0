"""The null `identity`: the checkpoints themselves."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Identity(Settings):
    """A null: the checkpoints themselves."""


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Identity, *, callbacks: Callbacks = SILENT
) -> Float[Array, "k dim"]:
    """Nothing to learn."""
    return vectors


@partial(jax.jit, static_argnames="m")
def sample(fitted: Float[Array, "k dim"], key: Key[Array, ""], m: int) -> Float[Array, "m2 dim"]:
    """m evenly spaced checkpoints, first and last included; all k of them for m >= k."""
    k = fitted.shape[0]
    if m >= k:
        return fitted
    return fitted[jnp.round(jnp.linspace(0, k - 1, m)).astype(jnp.int32)]


GENERATOR = Generator("identity", Identity(), fit, sample, members=min, draws_checkpoints=True, is_all_checkpoints=True)
