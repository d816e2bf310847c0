"""The null `random_latent`: the decoder on Gaussian latents, with bend's autoencoder and no diffusion."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate import autoencoder as coder
from bend_jax.generate import latents as coding
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.generator import Generator, Size
from bend_jax.generate.latents import LatentCodec, decode, fit_latents, rank
from bend_jax.training import SILENT, Callbacks


class RandomLatent(Settings):
    """A null: the decoder on Gaussian latents, with bend's autoencoder and no diffusion."""

    autoencoder: Autoencoder = setting("bend's", default=Autoencoder, shared="generate.bend.autoencoder")
    scale: float = setting("of the latents", default=1.0, least=0)


class Fitted(flax.struct.PyTreeNode):
    """The autoencoder, and the sd of the whitened latents."""

    latents: LatentCodec
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: RandomLatent, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """Train the autoencoder."""
    latents, _ = fit_latents(vectors, key, settings.autoencoder, callbacks)
    return Fitted(latents, jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m decoded draws of scale * N(0, I)."""
    return decode(fitted.latents, fitted.scale * jax.random.normal(key, (m, rank(fitted.latents))))


def needs(settings: RandomLatent, k: int) -> None:
    """Raise SettingsError for a single checkpoint, unless nothing is scaled by the spread of several."""
    coding.needs(settings.autoencoder, k)


def cost(settings: RandomLatent, size: Size) -> float:
    """Floating-point operations of the autoencoder's training."""
    return coder.cost(settings.autoencoder, size.k, size.dim)


GENERATOR = Generator("random_latent", RandomLatent(), fit, sample, needs=needs, cost=cost, knob="scale")
