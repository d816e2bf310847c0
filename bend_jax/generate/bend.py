"""BEND's and p-diff's generator: standardise, encode, whiten, diffuse; and back."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.generate import autoencoder, diffusion
from bend_jax.settings import Bend
from bend_jax.training import SILENT, NonFiniteError, Watch

FLOOR = 1e-6  # of a scale, as a share of the largest: a coordinate that never moved is not blown up


class Affine(flax.struct.PyTreeNode):
    """y = (x - mean) / scale, coordinate by coordinate."""

    mean: Float[Array, " dim"]
    scale: Float[Array, " dim"]


class Whitening(flax.struct.PyTreeNode):
    """y = (x - mean) @ forward with unit covariance in the span of the data; x = mean + y @ back."""

    mean: Float[Array, " latent"]
    forward: Float[Array, "latent rank"]
    back: Float[Array, "rank latent"]


class Fitted(flax.struct.PyTreeNode):
    """What `fit` returns and `sample` draws from."""

    affine: Affine
    coder: Any
    whitening: Whitening
    denoiser: Any
    settings: Bend = flax.struct.field(pytree_node=False)


def standardise(vectors: Float[Array, "k dim"]) -> Affine:
    """Mean and sd of every coordinate; a coordinate with less than FLOOR of the largest sd keeps that much."""
    sd = jnp.std(vectors, axis=0)
    floor = jnp.maximum(FLOOR * jnp.max(sd), jnp.finfo(jnp.float32).tiny)
    return Affine(jnp.mean(vectors, axis=0), jnp.maximum(sd, floor))


def whiten(latents: Float[Array, "k latent"]) -> Whitening:
    """Principal axes of the latents, each scaled to unit variance; at most k - 1 of them.

    A DDPM starts from N(0, I), and with the variance of eq. 3 it is exact where its data have that covariance.
    """
    k, width = latents.shape
    rank = min(k - 1, width)
    mean = jnp.mean(latents, axis=0)
    _, values, axes = jnp.linalg.svd(latents - mean[None], full_matrices=False)
    sd = jnp.maximum(values[:rank], FLOOR * values[0]) / jnp.sqrt(k)
    return Whitening(mean, axes[:rank].T / sd[None], axes[:rank] * sd[:, None])


def fit(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Bend, *, watch: Watch = SILENT) -> Fitted:
    """Train the autoencoder on the vectors and the DDPM on their latents."""
    key_coder, key_denoiser = jax.random.split(key)
    affine = standardise(vectors)
    scaled = (vectors - affine.mean[None]) / affine.scale[None]
    coder = autoencoder.fit(scaled, key_coder, settings.autoencoder, watch)
    latents = autoencoder.encode(coder, scaled, settings.autoencoder)
    if not bool(jnp.isfinite(latents).all()):
        raise NonFiniteError("autoencoder", "latents")
    whitening = whiten(latents)
    white = (latents - whitening.mean[None]) @ whitening.forward
    denoiser = diffusion.fit(white, key_denoiser, settings.diffusion, watch)
    return Fitted(affine, coder, whitening, denoiser, settings)


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m new vectors, all at once."""
    settings, whitening = fitted.settings, fitted.whitening
    white = diffusion.sample(fitted.denoiser, key, m, whitening.back.shape[0], settings.diffusion)
    latents = whitening.mean[None] + white @ whitening.back
    scaled = autoencoder.decode(fitted.coder, latents, fitted.affine.mean.shape[0], settings.autoencoder)
    return fitted.affine.mean[None] + scaled * fitted.affine.scale[None]
