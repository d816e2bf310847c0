"""The null `identity`: the checkpoints themselves."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.training import SILENT, Watch


@dataclass(frozen=True)
class Identity:
    """A null: the checkpoints themselves."""


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Identity, *, watch: Watch = SILENT
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
