"""The null `random_latent`: the decoder on Gaussian latents, with bend's autoencoder and no diffusion."""

from dataclasses import dataclass, field
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import at_least
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.latents import Latents, decode, fit_latents, rank
from bend_jax.training import SILENT, Watch


@dataclass(frozen=True)
class RandomLatent:
    """A null: the decoder on Gaussian latents, with bend's autoencoder and no diffusion."""

    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    scale: float = 1.0  # of the latents

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")


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
