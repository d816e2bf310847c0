"""Generators: BEND's parts and whole on synthetic checkpoints, and the nulls' moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import metrics
from bend_jax.generate import GENERATE, autoencoder, bend, gaussian, identity
from bend_jax.settings import Autoencoder, Bend, Diffusion, Gaussian, Identity
from bend_jax.training import SILENT, NonFiniteError


def checkpoints(k: int = 60, dim: int = 40, rank: int = 12) -> jax.Array:
    """Vectors of known rank with scales over three orders of magnitude and one coordinate that never moves."""
    a, b, c = jax.random.split(jax.random.key(0), 3)
    scales = 10.0 ** jax.random.uniform(c, (dim,), minval=-3.0, maxval=0.0)
    vectors = 3.0 + (jax.random.normal(a, (k, rank)) @ jax.random.normal(b, (rank, dim))) * scales[None]
    return vectors.at[:, 7].set(1.5)


def test_standardised_vectors_have_unit_spread_and_a_still_coordinate_stays_finite() -> None:
    """The floor on the scale keeps a coordinate that never moved from being blown up."""
    vectors = checkpoints()
    affine = bend.standardise(vectors)
    scaled = np.asarray((vectors - affine.mean[None]) / affine.scale[None])
    moved = np.arange(40) != 7
    np.testing.assert_allclose(scaled.std(0)[moved], 1.0, atol=1e-3)
    assert np.isfinite(scaled).all()
    assert np.abs(scaled[:, 7]).max() < 1.0


def test_whitened_latents_have_identity_covariance_and_come_back() -> None:
    """In the span of the latents, of at most k - 1 axes."""
    latents = jax.random.normal(jax.random.key(0), (10, 30)) * jnp.arange(1.0, 31.0)[None]
    white = bend.whiten(latents)
    y = (latents - white.mean[None]) @ white.forward
    assert y.shape == (10, 9)
    np.testing.assert_allclose(np.asarray(y).T @ np.asarray(y) / 10, np.eye(9), atol=1e-4)
    np.testing.assert_allclose(white.mean[None] + y @ white.back, latents, atol=1e-3)


def test_the_autoencoder_starts_as_principal_components() -> None:
    """Before any training its error is what principal components of that number leave."""
    vectors = checkpoints()
    affine = bend.standardise(vectors)
    scaled = (vectors - affine.mean[None]) / affine.scale[None]
    settings = Autoencoder(latent=5, steps=1, lr=1e-30)
    params = autoencoder.fit(scaled, jax.random.key(0), settings, SILENT)
    back = autoencoder.decode(params, autoencoder.encode(params, scaled, settings), 40, settings)
    values = np.linalg.svd(np.asarray(scaled), compute_uv=False)
    assert float(jnp.sum((back - scaled) ** 2)) == pytest.approx(float(np.sum(values[5:] ** 2)), rel=1e-3)


def test_autoencoder_training_beats_principal_components_on_a_curve() -> None:
    """Points on a curve in 12 dimensions through one latent number: bends that no line has."""
    t = jnp.linspace(-2.0, 2.0, 60)[:, None]
    vectors = jnp.sin(t * jnp.arange(1.0, 13.0)[None] / 4 + jnp.arange(12.0)[None])
    vectors = (vectors - vectors.mean(0)[None]) / vectors.std(0)[None]
    settings = Autoencoder(latent=1, hidden=64, steps=500, latent_noise=0.01)
    params = autoencoder.fit(vectors, jax.random.key(0), settings, SILENT)
    back = autoencoder.decode(params, autoencoder.encode(params, vectors, settings), 12, settings)
    line = np.sum(np.linalg.svd(np.asarray(vectors), compute_uv=False)[1:] ** 2) / vectors.size
    assert float(jnp.mean((back - vectors) ** 2)) < 0.5 * line


def test_bend_keeps_the_checkpoints_spread_without_copying() -> None:
    """The promise that a report shows as novelty.spread, on vectors that are Gaussian."""
    vectors = checkpoints()
    fitted = bend.fit(vectors, jax.random.key(1), Bend())
    members = bend.sample(fitted, jax.random.key(2), 200)
    found = metrics.novelty(members, vectors)
    assert members.shape == (200, 40)
    assert found.spread is not None
    assert 0.8 < found.spread < 1.25
    assert found.copy_share < 0.1


def test_bend_works_with_fewer_vectors_than_latents() -> None:
    """k = 2 is the least that is allowed."""
    settings = Bend(Autoencoder(steps=20), Diffusion(steps=20))
    fitted = bend.fit(checkpoints(k=2), jax.random.key(1), settings)
    assert bool(jnp.isfinite(bend.sample(fitted, jax.random.key(2), 3)).all())


def test_sampling_is_a_function_of_its_key() -> None:
    """The same key gives the same members, another key others."""
    fitted = bend.fit(checkpoints(), jax.random.key(1), Bend(Autoencoder(steps=20), Diffusion(steps=20)))
    first, again, other = (bend.sample(fitted, jax.random.key(i), 4) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 0


def test_nan_in_the_vectors_stops_with_the_name_of_the_training() -> None:
    """Not a silent member of NaN."""
    with pytest.raises(NonFiniteError, match="autoencoder: NaN or Inf"):
        bend.fit(checkpoints().at[3, 3].set(jnp.nan), jax.random.key(1), Bend())


def test_gaussian_has_the_moments_of_its_coordinates() -> None:
    """Means within 4 standard errors, spread about 1, and no correlation left."""
    vectors = checkpoints()
    fitted = gaussian.fit(vectors, jax.random.key(0), Gaussian())
    members = np.asarray(gaussian.sample(fitted, jax.random.key(1), 5000), np.float64)
    mean, sd = np.asarray(vectors.mean(0)), np.asarray(vectors.std(0))
    assert (np.abs(members.mean(0) - mean) <= 4 * sd / np.sqrt(5000) + 1e-6).all()
    assert metrics.novelty(members, np.asarray(vectors)).spread == pytest.approx(1.0, abs=0.03)
    correlation = np.corrcoef(members[:, [0, 1]].T)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(5000)


def test_identity_gives_evenly_spaced_checkpoints() -> None:
    """First and last included; all k of them for m >= k."""
    vectors = jnp.arange(10.0)[:, None]
    fitted = identity.fit(vectors, jax.random.key(0), Identity())
    assert identity.sample(fitted, jax.random.key(0), 4)[:, 0].tolist() == [0, 3, 6, 9]
    for m in (10, 25):
        np.testing.assert_array_equal(identity.sample(fitted, jax.random.key(0), m), vectors)


def test_every_generator_of_the_settings_has_its_file() -> None:
    """The table and the settings name the same ones."""
    from bend_jax.settings import GENERATORS

    assert set(GENERATE) == set(GENERATORS)
    assert all(callable(module.fit) and callable(module.sample) for module in GENERATE.values())
