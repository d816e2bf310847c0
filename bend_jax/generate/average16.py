"""The null `average16`: each member is the mean of 16 different random checkpoints (Zeng et al. 2025)."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, SettingsError
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Average16(Settings):
    """A null: each member is the mean of 16 different checkpoints (Zeng et al. 2025)."""


MEANS_OF = 16  # checkpoints, in a member of average16


class Fitted(flax.struct.PyTreeNode):
    """The checkpoints, as their mean and the deviations from it."""

    mean: Float[Array, " dim"]
    deviations: Float[Array, "k dim"]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Average16, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """Nothing to learn; needs 16 checkpoints."""
    k = vectors.shape[0]
    needs(settings, k)
    mean = jnp.mean(vectors, axis=0)
    return Fitted(mean, vectors - mean[None])


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m means, each of 16 of the k checkpoints drawn without replacement."""
    k = fitted.deviations.shape[0]
    order = jax.vmap(lambda key: jax.random.permutation(key, k))(jax.random.split(key, m))
    weights = jnp.where(order < MEANS_OF, 1 / MEANS_OF, 0.0)  # [m, k], a product instead of [m, 16, dim] gathered
    return fitted.mean[None] + jnp.matmul(weights, fitted.deviations, precision=jax.lax.Precision.HIGHEST)


def needs(settings: Average16, k: int) -> None:
    """Raise SettingsError for fewer than 16 checkpoints."""
    if k < MEANS_OF:
        raise SettingsError(f"average16 takes means of {MEANS_OF} checkpoints, and there are k={k}: raise k")


GENERATOR = Generator("average16", Average16(), fit, sample, needs)
