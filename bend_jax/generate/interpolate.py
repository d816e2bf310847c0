"""The null `interpolate`: uniform points between two different random checkpoints."""

from functools import partial

import jax
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Interpolate(Settings):
    """A null: uniform points between two different random checkpoints."""


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Interpolate, *, callbacks: Callbacks = SILENT
) -> Float[Array, "k dim"]:
    """Nothing to learn."""
    return vectors


@partial(jax.jit, static_argnames="m")
def sample(fitted: Float[Array, "k dim"], key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m points a + u (b - a): u ~ U(0, 1), and (a, b) uniform over the ordered pairs of different checkpoints."""
    k = fitted.shape[0]
    key_a, key_step, key_u = jax.random.split(key, 3)
    first = jax.random.randint(key_a, (m,), 0, k)
    second = (first + jax.random.randint(key_step, (m,), 1, k)) % k
    a, b = fitted[first], fitted[second]
    return a + jax.random.uniform(key_u, (m, 1)) * (b - a)


GENERATOR = Generator("interpolate", Interpolate(), fit, sample)
