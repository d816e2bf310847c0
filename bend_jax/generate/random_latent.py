"""The null `random_latent`: the decoder on Gaussian latents, with bend's autoencoder and no diffusion."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.generate.latents import Latents, decode, fit_latents, rank
from bend_jax.settings import RandomLatent
from bend_jax.training import SILENT, Watch


class Fitted(flax.struct.PyTreeNode):
    """The autoencoder, and the sd of the whitened latents."""

    latents: Latents
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: RandomLatent, *, watch: Watch = SILENT
) -> Fitted:
    """Train the autoencoder."""
    latents, _ = fit_latents(vectors, key, settings.autoencoder, watch)
    return Fitted(latents, jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m decoded draws of scale * N(0, I)."""
    return decode(fitted.latents, fitted.scale * jax.random.normal(key, (m, rank(fitted.latents))))
