"""The null `gaussian`: an independent Gaussian for every coordinate, with the checkpoints' mean and variance."""

from dataclasses import dataclass
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import at_least
from bend_jax.training import SILENT, Watch


@dataclass(frozen=True)
class Gaussian:
    """A null: an independent Gaussian for every coordinate."""

    scale: float = 1.0  # of the spread

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")


class Fitted(flax.struct.PyTreeNode):
    """Mean and sd of every coordinate."""

    mean: Float[Array, " dim"]
    sd: Float[Array, " dim"]
    scale: Float[Array, ""]


def fit(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Gaussian, *, watch: Watch = SILENT) -> Fitted:
    """The moments of the k vectors (variance over k)."""
    return Fitted(jnp.mean(vectors, axis=0), jnp.std(vectors, axis=0), jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m draws of N(mean, scale^2 diag(sd^2))."""
    eps = jax.random.normal(key, (m, fitted.mean.shape[0]))
    return fitted.mean[None] + (fitted.scale * fitted.sd)[None] * eps
