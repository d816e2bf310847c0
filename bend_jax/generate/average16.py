"""The null `average16`: each member is the mean of 16 different random checkpoints (Zeng et al. 2025)."""

from dataclasses import dataclass
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import SettingsError
from bend_jax.training import SILENT, Watch


@dataclass(frozen=True)
class Average16:
    """A null: each member is the mean of 16 different checkpoints (Zeng et al. 2025)."""


MEANS_OF = 16  # checkpoints, in a member of average16


class Fitted(flax.struct.PyTreeNode):
    """The checkpoints, as their mean and the deviations from it."""

    mean: Float[Array, " dim"]
    deviations: Float[Array, "k dim"]


def fit(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Average16, *, watch: Watch = SILENT) -> Fitted:
    """Nothing to learn; needs 16 checkpoints."""
    k = vectors.shape[0]
    if k < MEANS_OF:
        raise SettingsError(f"average16 takes means of {MEANS_OF} checkpoints, and there are k={k}: raise k")
    mean = jnp.mean(vectors, axis=0)
    return Fitted(mean, vectors - mean[None])


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m means, each of 16 of the k checkpoints drawn without replacement."""
    k = fitted.deviations.shape[0]
    order = jax.vmap(lambda key: jax.random.permutation(key, k))(jax.random.split(key, m))
    weights = jnp.where(order < MEANS_OF, 1 / MEANS_OF, 0.0)  # [m, k], a product instead of [m, 16, dim] gathered
    return fitted.mean[None] + jnp.matmul(weights, fitted.deviations, precision=jax.lax.Precision.HIGHEST)
