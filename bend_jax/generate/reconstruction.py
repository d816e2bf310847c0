"""The null `autoencoder`: the checkpoints that `identity` takes, through bend's autoencoder and back."""

from functools import partial

import flax.struct
import jax
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate import autoencoder as coder
from bend_jax.generate import identity
from bend_jax.generate import latents as coding
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.generator import Generator, Size
from bend_jax.generate.latents import LatentCodec, decode, fit_latents
from bend_jax.training import SILENT, Callbacks


class Reconstruction(Settings):
    """A null: checkpoints through bend's autoencoder and back."""

    autoencoder: Autoencoder = setting("bend's", default=Autoencoder, shared="generate.bend.autoencoder")


class Fitted(flax.struct.PyTreeNode):
    """The autoencoder and what it was fitted to."""

    latents: LatentCodec
    vectors: Float[Array, "k dim"]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Reconstruction, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """Train the autoencoder."""
    latents, _ = fit_latents(vectors, key, settings.autoencoder, callbacks)
    return Fitted(latents, vectors)


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "members dim"]:
    """min(m, k) reconstructions."""
    return decode(fitted.latents, coding.encode(fitted.latents, identity.sample(fitted.vectors, key, m)))


def needs(settings: Reconstruction, k: int) -> None:
    """Raise SettingsError for a single checkpoint, unless nothing is scaled by the spread of several."""
    coding.needs(settings.autoencoder, k)


def cost(settings: Reconstruction, size: Size) -> float:
    """Floating-point operations of the autoencoder's training."""
    return coder.cost(settings.autoencoder, size.k, size.dim)


GENERATOR = Generator("autoencoder", Reconstruction(), fit, sample, needs=needs, cost=cost, members=min)
