"""The null `resample`: checkpoints drawn with replacement."""

from functools import partial

import jax
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Resample(Settings):
    """A null: checkpoints drawn with replacement."""


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Resample, *, callbacks: Callbacks = SILENT
) -> Float[Array, "k dim"]:
    """Nothing to learn."""
    return vectors


@partial(jax.jit, static_argnames="m")
def sample(fitted: Float[Array, "k dim"], key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m checkpoints, each uniformly one of the k."""
    return fitted[jax.random.randint(key, (m,), 0, fitted.shape[0])]


GENERATOR = Generator("resample", Resample(), fit, sample, draws_checkpoints=True)
