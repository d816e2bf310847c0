"""Vectors to whitened latents and back: standardise, encode, whiten. What `bend` and two of the nulls share."""

from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from bend_jax.generate import autoencoder, whitening
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.whitening import (
    Affine,
    Whitening,
    from_white,
    order_axes,
    standardise,
    to_affine,
    to_white,
    whiten,
)
from bend_jax.training import Callbacks, NonFiniteError


class LatentCodec(flax.struct.PyTreeNode):
    """The maps of `encode` and `decode`."""

    affine: Affine
    coder: Any
    whitening: Whitening
    settings: Autoencoder = flax.struct.field(pytree_node=False)


def rank(latents: LatentCodec) -> int:
    """How many numbers a whitened latent has."""
    return latents.whitening.back.shape[0]


def fit_latents(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Autoencoder, callbacks: Callbacks
) -> tuple[LatentCodec, Float[Array, "k rank"]]:
    """Train the autoencoder on the standardised vectors; returns the maps and the vectors' whitened latents, in falling
    order of the vectors' variance that goes with them."""
    affine = standardise(vectors)
    scaled = to_affine(affine, vectors)
    coder = autoencoder.fit(scaled, key, settings, callbacks)
    found = autoencoder.encode(coder, scaled, settings)
    if not np.isfinite(found).all():
        raise NonFiniteError("autoencoder", "latents")
    axes = order_axes(whiten(found, found.shape[1]), found, scaled)
    return LatentCodec(affine, coder, axes, settings), to_white(axes, found)


def turn(latents: LatentCodec, by: Float[Array, "rank rank"]) -> LatentCodec:
    """The same with the latents along the columns of the orthogonal `by`."""
    return latents.replace(whitening=whitening.turn(latents.whitening, by))


@jax.jit
def encode(latents: LatentCodec, vectors: Float[Array, "n dim"]) -> Float[Array, "n rank"]:
    """Whitened latents of vectors."""
    scaled = to_affine(latents.affine, vectors)
    return to_white(latents.whitening, autoencoder.encode(latents.coder, scaled, latents.settings))


@jax.jit
def noised(latents: LatentCodec, key: Key[Array, ""], vectors: Float[Array, "n dim"]) -> Float[Array, "n rank"]:
    """Whitened latents of vectors as the decoder sees them while the autoencoder is trained: with latent_noise * eps on
    the latents that `encode` whitens. The noise knows nothing of the diffusion; pca, which is not trained, gets it too.
    """
    settings = latents.settings
    scaled = to_affine(latents.affine, vectors)
    found = autoencoder.encode(latents.coder, scaled, settings)
    return to_white(latents.whitening, found + settings.latent_noise * jax.random.normal(key, found.shape))


def decode(latents: LatentCodec, white: Float[Array, "n rank"]) -> Float[Array, "n dim"]:
    """Vectors of whitened latents."""
    affine = latents.affine
    found = from_white(latents.whitening, white)
    scaled = autoencoder.decode(latents.coder, found, affine.mean.shape[0], latents.settings)
    return affine.mean[None] + scaled * affine.scale[None]
