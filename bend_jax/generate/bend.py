"""BEND's and p-diff's generator: standardise, encode, whiten, diffuse; and back."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate import autoencoder as coder
from bend_jax.generate import denoiser_training, diffusion, low_rank_gaussian, structure
from bend_jax.generate import latents as coding
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.denoiser_training import Evidence
from bend_jax.generate.diffusion import Diffusion, Learnt
from bend_jax.generate.generator import Generator, Size
from bend_jax.generate.latents import LatentCodec, decode, fit_latents, rank
from bend_jax.generate.low_rank_gaussian import LowRankGaussian
from bend_jax.training import SILENT, Callbacks


class Bend(Settings):
    """BEND's and p-diff's generator: autoencoder, then a DDPM on its latents."""

    autoencoder: Autoencoder = setting("between vectors and latents", default=Autoencoder)
    diffusion: Diffusion = setting("on the latents", default=Diffusion)
    rest: bool = setting("whether what the autoencoder leaves out is drawn from its Gaussian", default=True)
    temperature: float = setting(
        "of all the sampler's noise: below 1 nearer to the mean, above 1 more diverse", default=1.0, least=0
    )


class Fitted(flax.struct.PyTreeNode):
    """What `fit` returns and `sample` draws from."""

    latents: LatentCodec
    denoiser: Learnt
    evidence: Evidence
    rest: low_rank_gaussian.Fitted | None  # of vectors less what the autoencoder makes of them
    temperature: Float[Array, ""]
    settings: Diffusion = flax.struct.field(pytree_node=False)


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Bend, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """Train the autoencoder on the vectors and the DDPM on their latents."""
    key_coder, key_denoiser = jax.random.split(key)
    latents, white = fit_latents(vectors, key_coder, settings.autoencoder, callbacks)
    k, most = white.shape
    counts = [most]
    if settings.diffusion.axes:
        found = structure.find(np.asarray(white), min(settings.diffusion.axes, most, max(k // 10, 1)))
        counts = found.counts
        latents = coding.turn(latents, jnp.asarray(found.turn, white.dtype))
        white = coding.encode(latents, vectors)
    denoiser, evidence = denoiser_training.fit(white, counts, key_denoiser, settings.diffusion, callbacks)
    rest = None
    if settings.rest:
        left = vectors - jax.jit(decode)(latents, white)
        rest = low_rank_gaussian.fit(left, key, LowRankGaussian())
    return Fitted(latents, denoiser, evidence, rest, jnp.float32(settings.temperature), settings.diffusion)


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m new vectors, all at once: latents by diffusion, decoded, and what the autoencoder leaves out."""
    latents, temperature = fitted.latents, fitted.temperature
    white = diffusion.sample(fitted.denoiser, key, m, rank(latents), fitted.settings, temperature)
    members = decode(latents, white)
    if fitted.rest is None:
        return members
    key_rest = jax.random.fold_in(key, 1)
    return members + low_rank_gaussian.sample(fitted.rest.replace(scale=temperature), key_rest, m)


def encode(fitted: Fitted, vectors: Float[Array, "n dim"]) -> Float[Array, "n latent"]:
    """The latents that the DDPM is trained on and draws: whitened, so that the checkpoints' have unit variance."""
    return coding.encode(fitted.latents, vectors)


def noised(fitted: Fitted, key: Key[Array, ""], vectors: Float[Array, "n dim"]) -> Float[Array, "n latent"]:
    """The same with the noise that the autoencoder is trained with (`latents.noised`): p-diff's "adding noise"."""
    return coding.noised(fitted.latents, key, vectors)


def cost(settings: Bend, size: Size) -> float:
    """Floating-point operations of both trainings and of the samples."""
    latent = min(settings.autoencoder.latent, size.k - 1)
    trained = coder.cost(settings.autoencoder, size.k, size.dim)
    return trained + diffusion.cost(settings.diffusion, latent, size.m * size.draws)


GENERATOR = Generator("bend", Bend(), fit, sample, cost=cost, knob="temperature", encode=encode, noised=noised)
