"""The null `low_rank_gaussian`: a Gaussian with the checkpoints' covariance S, and SWAG (Maddox et al. 2019, eq. 1)."""

from dataclasses import dataclass
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import SettingsError, at_least
from bend_jax.training import SILENT, Watch


@dataclass(frozen=True)
class LowRankGaussian:
    """A null: a Gaussian with the checkpoints' covariance, and SWAG (Maddox et al. 2019)."""

    scale: float = 1.0  # of the spread
    diagonal: float = 0.0  # share of the variance that independent coordinates have; SWAG's is 0.5

    def __post_init__(self) -> None:
        at_least(self, 0, "scale", "diagonal")
        if self.diagonal > 1:
            raise SettingsError(f"diagonal must be in [0, 1]; got {self.diagonal}")


class Fitted(flax.struct.PyTreeNode):
    """The mean and S, as the k deviations from it: a dim x dim matrix is never made."""

    mean: Float[Array, " dim"]
    deviations: Float[Array, "k dim"]
    diagonal: Float[Array, ""]
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: LowRankGaussian, *, watch: Watch = SILENT
) -> Fitted:
    """The moments of the k vectors (covariance over k)."""
    mean = jnp.mean(vectors, axis=0)
    return Fitted(mean, vectors - mean[None], jnp.float32(settings.diagonal), jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m draws of N(mean, scale^2 ((1 - diagonal) S + diagonal diag(S))); S = A^T A / k of the deviations A.

    A^T z / sqrt(k) has the covariance S for z ~ N(0, I), so that S needs no factors.
    """
    k, dim = fitted.deviations.shape
    key_span, key_own = jax.random.split(key)
    z = jax.random.normal(key_span, (m, k))
    span = jnp.matmul(z, fitted.deviations, precision=jax.lax.Precision.HIGHEST) / jnp.sqrt(k)
    own = jnp.std(fitted.deviations, axis=0)[None] * jax.random.normal(key_own, (m, dim))
    draws = jnp.sqrt(1 - fitted.diagonal) * span + jnp.sqrt(fitted.diagonal) * own
    return fitted.mean[None] + fitted.scale * draws
