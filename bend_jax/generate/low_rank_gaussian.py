"""The null `low_rank_gaussian`: a Gaussian with the checkpoints' covariance S, and SWAG (Maddox et al. 2019, eq. 1)."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class LowRankGaussian(Settings):
    """A null: a Gaussian with the checkpoints' covariance, and SWAG (Maddox et al. 2019)."""

    scale: float = setting("of the spread", default=1.0, least=0)
    diagonal: float = setting(
        "share of the variance that independent coordinates have; SWAG's is 0.5", default=0.0, least=0, most=1
    )


class Fitted(flax.struct.PyTreeNode):
    """The mean and S, as the k deviations from it: a dim x dim matrix is never made."""

    mean: Float[Array, " dim"]
    deviations: Float[Array, "k dim"]
    diagonal: Float[Array, ""]
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: LowRankGaussian, *, callbacks: Callbacks = SILENT
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


GENERATOR = Generator("low_rank_gaussian", LowRankGaussian(), fit, sample, knob="scale")
