"""Vectors to whitened latents and back: standardise, encode, whiten. What `bend` and two of the nulls share."""

from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from bend_jax.checks import SettingsError
from bend_jax.generate import autoencoder, whitening
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.whitening import (
    Affine,
    Whitening,
    as_it_is,
    from_white,
    order_axes,
    standardise,
    to_affine,
    to_white,
    unchanged,
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


def needs(settings: Autoencoder, k: int) -> None:
    """Raise SettingsError for a single checkpoint where something is scaled by the spread of several."""
    alone = settings.kind == "conv" and not settings.standardise and not settings.whiten
    if k < 2 and not alone:
        raise SettingsError(
            f"k={k}: a single checkpoint has no spread to scale by; collect 2 or more, or take the autoencoder with "
            "kind=conv, standardise=False and whiten=False, as the preset published does"
        )


def fit_latents(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Autoencoder, callbacks: Callbacks
) -> tuple[LatentCodec, Float[Array, "k rank"]]:
    """Train the autoencoder on the vectors; returns the maps and the vectors' latents.

    The vectors are standardised unless the settings say otherwise, and so are the latents whitened: then they are in
    falling order of the vectors' variance that goes with them.
    """
    affine = standardise(vectors) if settings.standardise else as_it_is(vectors)
    scaled = to_affine(affine, vectors)
    coder = autoencoder.fit(scaled, key, settings, callbacks)
    found = autoencoder.encode(coder, scaled, settings)
    if not np.isfinite(found).all():
        raise NonFiniteError("autoencoder", "latents")
    axes = order_axes(whiten(found, found.shape[1]), found, scaled) if settings.whiten else unchanged(found)
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
    """Whitened latents of vectors as the decoder sees them while the autoencoder is trained, with latent_noise * eps.
    The noise knows nothing of the diffusion; pca, which is not trained, gets it too.
    """
    settings = latents.settings
    found = autoencoder.encode(latents.coder, to_affine(latents.affine, vectors), settings)
    clean = found / (1 - settings.latent_noise) if settings.scale_latents else found  # as the encoder gave it
    return to_white(latents.whitening, autoencoder.noised(key, clean, settings))


def decode(latents: LatentCodec, white: Float[Array, "n rank"]) -> Float[Array, "n dim"]:
    """Vectors of whitened latents."""
    affine = latents.affine
    found = from_white(latents.whitening, white)
    scaled = autoencoder.decode(latents.coder, found, affine.mean.shape[0], latents.settings)
    return affine.mean[None] + scaled * affine.scale[None]
