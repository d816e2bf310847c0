"""The autoencoder's start: its noise, its keys, the scale of its vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.generate import autoencoder
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.latents import fit_latents
from bend_jax.training import SILENT, Callbacks

VECTORS = jax.random.normal(jax.random.key(0), (400, 6))
VECTORS = (VECTORS - VECTORS.mean(0)[None]) / VECTORS.std(0)[None]


def test_the_first_loss_is_that_of_the_noise_on_vectors() -> None:
    """As many latents as numbers give back what came in, e eps + (1 - e) x: its error is e^2 (1 + 1) at unit spread."""
    losses: list[float] = []
    callbacks = Callbacks(segment=lambda name, state, found: losses.extend(found))
    settings = Autoencoder(kind="mlp", latent=6, hidden=8, steps=1, lr=1e-30, input_noise=0.3, latent_noise=0.0)
    autoencoder.fit(VECTORS, jax.random.key(1), settings, callbacks)
    assert losses[0] == pytest.approx(0.09 * 2, rel=0.1)


def test_encoder_and_decoder_start_from_keys_of_their_own() -> None:
    """Layers of one shape have other weights."""
    found = autoencoder.initial(VECTORS, jax.random.key(1), Autoencoder(kind="mlp", latent=3, hidden=8))
    first, second = (np.asarray(found[name]["params"]["layer2"]["kernel"]) for name in ("encoder", "decoder"))
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("standardise", [True, False])
def test_vectors_are_scaled_where_it_is_asked(standardise: bool) -> None:
    """By their sd, or not at all."""
    vectors = VECTORS * jnp.arange(1.0, 7.0)[None]
    codec, _ = fit_latents(vectors, jax.random.key(0), Autoencoder(kind="pca", standardise=standardise), SILENT)
    np.testing.assert_allclose(codec.affine.scale, np.arange(1, 7) if standardise else np.ones(6), rtol=1e-4)
