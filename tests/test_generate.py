"""Generators: BEND's parts and whole on synthetic checkpoints, and the nulls' moments."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import metrics
from bend_jax.checks import SettingsError
from bend_jax.generate import (
    GENERATORS,
    autoencoder,
    bend,
    convolutional,
    gaussian,
    identity,
    whitening,
)
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.average import Average
from bend_jax.generate.average16 import Average16
from bend_jax.generate.bend import Bend
from bend_jax.generate.diffusion import Diffusion
from bend_jax.generate.gaussian import Gaussian
from bend_jax.generate.identity import Identity
from bend_jax.generate.interpolate import Interpolate
from bend_jax.generate.latents import fit_latents
from bend_jax.generate.low_rank_gaussian import LowRankGaussian
from bend_jax.generate.noise import Noise
from bend_jax.generate.random_latent import RandomLatent
from bend_jax.generate.reconstruction import Reconstruction
from bend_jax.generate.resample import Resample
from bend_jax.training import SILENT, Callbacks, NonFiniteError

PCA = Autoencoder(kind="pca")
UNTRAINED = Diffusion(steps=1, lr=1e-30, width=8, blocks=1, axes=0)  # the exact denoiser of N(0, I)


def checkpoints(k: int = 60, dim: int = 40, rank: int = 12) -> jax.Array:
    """Vectors of known rank with scales over three orders of magnitude and one coordinate that never moves."""
    a, b, c = jax.random.split(jax.random.key(0), 3)
    scales = 10.0 ** jax.random.uniform(c, (dim,), minval=-3.0, maxval=0.0)
    vectors = 3.0 + (jax.random.normal(a, (k, rank)) @ jax.random.normal(b, (rank, dim))) * scales[None]
    return vectors.at[:, 7].set(1.5)


def test_standardised_vectors_have_unit_spread_and_a_still_coordinate_stays_finite() -> None:
    """The floor on the scale keeps a coordinate that never moved from being blown up."""
    vectors = checkpoints()
    affine = whitening.standardise(vectors)
    scaled = np.asarray((vectors - affine.mean[None]) / affine.scale[None])
    moved = np.arange(40) != 7
    np.testing.assert_allclose(scaled.std(0)[moved], 1.0, atol=1e-3)
    assert np.isfinite(scaled).all()
    assert np.abs(scaled[:, 7]).max() < 1.0


def test_whitened_latents_have_identity_covariance_and_come_back() -> None:
    """In the span of the latents, of at most k - 1 axes."""
    latents = jax.random.normal(jax.random.key(0), (10, 30)) * jnp.arange(1.0, 31.0)[None]
    white = whitening.whiten(latents, 30)
    y = whitening.to_white(white, latents)
    assert y.shape == (10, 9)
    np.testing.assert_allclose(np.asarray(y).T @ np.asarray(y) / 10, np.eye(9), atol=1e-4)
    np.testing.assert_allclose(whitening.from_white(white, y), latents, atol=1e-3)


def test_pca_is_exact_where_the_latents_span_the_vectors() -> None:
    """k - 1 <= latent: back but for rounding; fewer: what principal components leave; unit variance always."""
    vectors = jax.random.normal(jax.random.key(0), (9, 30)) * jnp.arange(1.0, 31.0)[None] + 5.0
    values = np.linalg.svd(np.asarray(vectors - vectors.mean(0)[None]), compute_uv=False)
    for most, rank in ((8, 8), (64, 8), (3, 3)):
        settings = Autoencoder(kind="pca", latent=most)
        coder = autoencoder.fit(vectors, jax.random.key(0), settings, SILENT)
        latents = autoencoder.encode(coder, vectors, settings)
        back = autoencoder.decode(coder, latents, 30, settings)
        assert latents.shape == (9, rank)
        np.testing.assert_allclose(np.asarray(latents).std(0), 1.0, atol=1e-5)
        left = float(np.sum(values[rank:8] ** 2))
        assert float(jnp.sum((back - vectors) ** 2)) == pytest.approx(left, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(
    ("dim", "fold", "latent"),
    [(2048, 5, 12), (5120, 5, 32), (1536, 5, 8), (2048, 3, 52), (5120, 3, 128), (1536, 3, 38)],
)
def test_the_convolutional_latents_have_the_published_sizes(dim: int, fold: int, latent: int) -> None:
    """p-diff's `medium` (fold 5) and `small` (fold 3)."""
    encoder = convolutional.Encoder(fold)
    found, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((2, dim)))
    assert found.shape == (2, latent)


@pytest.mark.parametrize(
    ("own", "flax"),
    [
        (convolutional.Conv(5, 3, 1), nn.Conv(5, (3,), padding=1)),
        (convolutional.Conv(2, 5, 4), nn.Conv(2, (5,), padding=4)),
        (convolutional.StridedConv(4, 5), nn.Conv(4, (5,), 5, "VALID")),
        (convolutional.TransposedConv(4, 3), nn.ConvTranspose(4, (3,), (3,), "VALID")),
    ],
)
def test_convolutions_as_matrix_products_are_flax_s(own: nn.Module, flax: nn.Module) -> None:
    """The same parameters, the same outputs and gradients: gathered before and added up after, folded and unfolded."""
    x = jax.random.normal(jax.random.key(1), (2, 17, 3))
    theirs = flax.init(jax.random.key(0), x)
    theirs["params"]["bias"] = jnp.arange(1.0, 1 + len(theirs["params"]["bias"]))
    assert jax.tree.map(jnp.shape, own.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, theirs)

    def squares(module: nn.Module, variables: Any) -> Any:
        out = jnp.asarray(module.apply(variables, x))
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

    (grads, out), (expected_grads, expected) = (
        jax.grad(lambda v, m=m: squares(m, v), has_aux=True)(theirs) for m in (own, flax)
    )
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads, expected_grads)


@pytest.mark.parametrize("fold", [2, 3, 5, 7])
def test_convolutions_bring_any_length_back_and_see_its_end(fold: int) -> None:
    """Lengths below, at and above multiples of fold^4; the last number moves the latents."""
    for dim in (1, 7, fold**4 - 1, fold**4, fold**4 + 1, 2 * fold**4, 4 * fold**4 - 20):
        encoder, decoder = convolutional.Encoder(fold), convolutional.Decoder(fold, dim)
        assert convolutional.padded(dim, fold) % fold**4 == 0
        x = jax.ShapeDtypeStruct((2, dim), jnp.float32)
        latents, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)
        back, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), latents)
        count = convolutional.positions(convolutional.padded(dim, fold), fold)
        assert latents.shape == (2, count * convolutional.channels(fold)[0][-1])
        assert back.shape == (2, dim)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) / math.prod(leaf.shape[:-1]) ** 0.5).astype(np.float32), shapes
    )
    ends = np.zeros((2, dim), np.float32)
    ends[1, -1] = 1.0
    first, second = jax.jit(encoder.apply)(variables, ends)
    assert float(jnp.abs(first - second).max()) > 0


def test_convolutions_train() -> None:
    """The loss starts at the vectors' mean square, 1, and falls below what their mean alone would leave."""
    t = jnp.linspace(0.0, 6.0, 100)[None] + jnp.linspace(0.0, 3.0, 10)[:, None]
    vectors, losses = jnp.sin(t) / jnp.std(jnp.sin(t)), []
    callbacks = Callbacks(segment=lambda name, state, found: losses.extend(found))
    settings = Autoencoder(kind="conv", fold=3, steps=300, lr=1e-2, latent_noise=1e-3)
    coder = autoencoder.fit(vectors, jax.random.key(0), settings, callbacks)
    assert losses[0] == pytest.approx(float(jnp.mean(vectors**2)), rel=1e-3)
    assert losses[-1] < 0.5 * float(jnp.var(vectors, axis=0).mean())
    latents = jax.eval_shape(lambda: autoencoder.encode(coder, vectors, settings))
    back = jax.eval_shape(lambda z: autoencoder.decode(coder, z, 100, settings), latents)
    assert (latents.shape, back.shape) == ((10, 4), (10, 100))


def test_the_autoencoder_starts_as_principal_components() -> None:
    """Before any training its error is what principal components of that number leave."""
    vectors = checkpoints()
    affine = whitening.standardise(vectors)
    scaled = (vectors - affine.mean[None]) / affine.scale[None]
    settings = Autoencoder(kind="mlp", latent=5, steps=1, lr=1e-30)
    params = autoencoder.fit(scaled, jax.random.key(0), settings, SILENT)
    back = autoencoder.decode(params, autoencoder.encode(params, scaled, settings), 40, settings)
    values = np.linalg.svd(np.asarray(scaled), compute_uv=False)
    assert float(jnp.sum((back - scaled) ** 2)) == pytest.approx(float(np.sum(values[5:] ** 2)), rel=1e-3)


def test_autoencoder_training_beats_principal_components_on_a_curve() -> None:
    """Points on a curve in 12 dimensions through one latent number: bends that no line has."""
    t = jnp.linspace(-2.0, 2.0, 60)[:, None]
    vectors = jnp.sin(t * jnp.arange(1.0, 13.0)[None] / 4 + jnp.arange(12.0)[None])
    vectors = (vectors - vectors.mean(0)[None]) / vectors.std(0)[None]
    settings = Autoencoder(kind="mlp", latent=1, hidden=64, steps=500, latent_noise=0.01)
    params = autoencoder.fit(vectors, jax.random.key(0), settings, SILENT)
    back = autoencoder.decode(params, autoencoder.encode(params, vectors, settings), 12, settings)
    line = np.sum(np.linalg.svd(np.asarray(vectors), compute_uv=False)[1:] ** 2) / vectors.size
    assert float(jnp.mean((back - vectors) ** 2)) < 0.5 * line


@pytest.mark.slow
def test_bend_keeps_the_checkpoints_spread_without_copying() -> None:
    """The promise that a report shows as novelty.spread, on vectors that are Gaussian."""
    vectors = checkpoints()
    fitted = bend.fit(vectors, jax.random.key(1), Bend(diffusion=Diffusion(steps=500, timesteps=200)))
    members = bend.sample(fitted, jax.random.key(2), 200)
    found = metrics.novelty(members, vectors)
    assert members.shape == (200, 40)
    assert found.spread is not None
    assert 0.8 < found.spread < 1.25
    assert found.copy_share < 0.1


def test_noised_latents_have_the_noise_of_the_training() -> None:
    """Whitened principal components: N(0, latent_noise^2) on unit variance; the plain ones are those of the DDPM."""
    vectors, settings = checkpoints(), Autoencoder(kind="pca", latent=8, latent_noise=0.3)
    _, white = fit_latents(vectors, jax.random.key(0), settings, SILENT)
    fitted = bend.fit(vectors, jax.random.key(0), Bend(autoencoder=settings, diffusion=UNTRAINED))
    found = bend.encode(fitted, vectors)
    np.testing.assert_allclose(found, white, atol=1e-3)
    noise = np.asarray(bend.noised(fitted, jax.random.key(1), vectors) - found)
    assert noise.std() == pytest.approx(0.3, abs=4 * 0.3 / np.sqrt(2 * noise.size))
    assert [name for name, module in GENERATORS.items() if module.encode] == ["bend"]


def test_sampling_is_a_function_of_its_key() -> None:
    """The same key gives the same members, another key others."""
    fitted = bend.fit(
        checkpoints(),
        jax.random.key(1),
        Bend(autoencoder=Autoencoder(kind="mlp", steps=20), diffusion=Diffusion(steps=20)),
    )
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


def few(k: int) -> jax.Array:
    """k correlated vectors of 4 numbers of different spread."""
    a, b = jax.random.split(jax.random.key(7))
    return 2.0 + jax.random.normal(a, (k, 4)) @ jax.random.normal(b, (4, 4)) * jnp.array([0.1, 1.0, 2.0, 0.5])[None]


def assert_moments(members: jax.Array, mean: np.ndarray, covariance: np.ndarray) -> None:
    """All means and (co)variances are within 4 standard errors, the products' own, of these."""
    off = np.asarray(members, np.float64) - mean[None]
    products = off[:, :, None] * off[:, None, :]
    root = np.sqrt(len(off))
    assert (np.abs(off.mean(0)) <= 4 * off.std(0) / root + 1e-5).all()
    assert (np.abs(products.mean(0) - covariance) <= 4 * products.std(0) / root + 1e-5).all()


def diagonal(covariance: np.ndarray) -> np.ndarray:
    """The variances alone."""
    return np.diag(np.diag(covariance))


# name, settings, k, and the covariance of a member given that of the checkpoints
EXPECTED = {
    "gaussian": ("gaussian", Gaussian(scale=0.5), 6, lambda s: 0.25 * diagonal(s)),
    "span": ("low_rank_gaussian", LowRankGaussian(scale=1.5), 6, lambda s: 2.25 * s),
    "swag": ("low_rank_gaussian", LowRankGaussian(diagonal=0.5), 6, lambda s: (s + diagonal(s)) / 2),
    "mix": (
        "low_rank_gaussian",
        LowRankGaussian(scale=2.0, diagonal=0.8),
        6,
        lambda s: 4 * (0.2 * s + 0.8 * diagonal(s)),
    ),
    "noise": ("noise", Noise(scale=0.5), 6, lambda s: 0.25 * np.trace(s) / 4 * np.eye(4)),
    # 16 of k without replacement: S / 16 (k - 16) / (k - 1)
    "average16": ("average16", Average16(), 20, lambda s: s * 4 / (16 * 19)),
    "average16 of all": ("average16", Average16(), 16, lambda s: 0 * s),
    "resample": ("resample", Resample(), 6, lambda s: s),
    # E[u^2 + (1 - u)^2] S + E[2 u (1 - u)] cov(a, b), and two different ones have cov(a, b) = -S / (k - 1)
    "interpolate": ("interpolate", Interpolate(), 6, lambda s: s * (2 / 3 - 1 / (3 * 5))),
    "random_latent": ("random_latent", RandomLatent(autoencoder=PCA, scale=0.7), 6, lambda s: 0.49 * s),
    "bend": ("bend", Bend(autoencoder=PCA, diffusion=UNTRAINED, temperature=0.6), 6, lambda s: 0.36 * s),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_members_have_the_moments_of_the_formula(case: str) -> None:
    """Of a finite population of k checkpoints, whose covariance is over k."""
    name, settings, k, covariance_of = EXPECTED[case]
    vectors = few(k)
    fitted = GENERATORS[name].fit(vectors, jax.random.key(1), settings)
    members = GENERATORS[name].sample(fitted, jax.random.key(2), 4000 if name == "bend" else 20_000)
    exact = np.asarray(vectors, np.float64)
    assert_moments(members, exact.mean(0), covariance_of(np.cov(exact.T, bias=True)))


@pytest.mark.parametrize("name", [name for name, generator in GENERATORS.items() if generator.knob])
def test_the_knob_is_a_leaf_and_needs_neither_a_fit_nor_a_trace(name: str) -> None:
    """Members at 0.5 are those at 1 half as far from the mean, and 0 is the mean (all maps here are linear)."""
    coder = {"autoencoder": PCA} if name in ("bend", "random_latent") else {}
    settings = type(GENERATORS[name].settings)(**coder, **({"diffusion": UNTRAINED} if name == "bend" else {}))
    vectors, module = few(6), GENERATORS[name]
    fitted = module.fit(vectors, jax.random.key(1), settings)
    traces = []

    @jax.jit
    def sample(fitted: Any, key: jax.Array) -> jax.Array:
        traces.append(name)
        return module.sample(fitted, key, 3)

    whole, half, none = (
        sample(fitted.replace(**{GENERATORS[name].knob: jnp.float32(v)}), jax.random.key(2)) for v in (1.0, 0.5, 0.0)
    )
    np.testing.assert_allclose(sample(fitted, jax.random.key(2)), whole, rtol=1e-6)
    assert len(traces) == 1
    mean = vectors.mean(0)[None]
    np.testing.assert_allclose(half - mean, (whole - mean) / 2, atol=1e-4)
    np.testing.assert_allclose(none, jnp.broadcast_to(mean, (3, 4)), atol=1e-4)
    np.testing.assert_array_equal(getattr(fitted, GENERATORS[name].knob), jnp.float32(1.0))


def test_average_is_one_member_whatever_was_asked_for() -> None:
    """The mean."""
    vectors = few(6)
    fitted = GENERATORS["average"].fit(vectors, jax.random.key(0), Average())
    members = GENERATORS["average"].sample(fitted, jax.random.key(0), 25)
    np.testing.assert_allclose(members, vectors.mean(0)[None], rtol=1e-6)


def test_average16_says_what_it_needs() -> None:
    """15 checkpoints are too few."""
    with pytest.raises(SettingsError, match="means of 16 checkpoints, and there are k=15"):
        GENERATORS["average16"].fit(few(15), jax.random.key(0), Average16())


def test_resampled_members_are_checkpoints() -> None:
    """Each of them one, and all come."""
    members = GENERATORS["resample"].sample(few(6), jax.random.key(0), 200)
    found = {tuple(row) for row in np.asarray(members).tolist()}
    assert found == {tuple(row) for row in np.asarray(few(6)).tolist()}


def test_reconstruction_goes_through_the_autoencoder() -> None:
    """An exact one gives what `identity` takes; one of a single component the points on its line."""
    vectors = few(6)
    module, key = GENERATORS["autoencoder"], jax.random.key(0)
    fitted = module.fit(vectors, key, Reconstruction(autoencoder=PCA))
    for m in (3, 6, 9):
        np.testing.assert_allclose(module.sample(fitted, key, m), identity.sample(vectors, key, m), atol=1e-4)
    line = module.sample(
        module.fit(vectors, key, Reconstruction(autoencoder=Autoencoder(kind="pca", latent=1))), key, 6
    )
    assert np.linalg.matrix_rank(np.asarray(line - vectors.mean(0)[None]), tol=1e-3) == 1


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "average16"])
@pytest.mark.parametrize("same", [False, True])
def test_two_checkpoints_are_enough(name: str, same: bool) -> None:
    """k = 2 is the least that is allowed; members stay finite even where both are the same."""
    coder = Autoencoder(kind="mlp", steps=20) if name == "bend" else PCA
    parts = {"bend": {"autoencoder": coder, "diffusion": Diffusion(steps=20)}, "random_latent": {"autoencoder": coder}}
    parts["autoencoder"] = {"autoencoder": coder}
    vectors = checkpoints(k=2)
    vectors = vectors[:1].repeat(2, axis=0) if same else vectors
    fitted = GENERATORS[name].fit(vectors, jax.random.key(1), type(GENERATORS[name].settings)(**parts.get(name, {})))
    members = GENERATORS[name].sample(fitted, jax.random.key(2), 3)
    assert members.shape == ({"average": 1, "identity": 2, "autoencoder": 2}.get(name, 3), 40)
    assert bool(jnp.isfinite(members).all())


def test_identity_gives_evenly_spaced_checkpoints() -> None:
    """First and last included; all k of them for m >= k."""
    vectors = jnp.arange(10.0)[:, None]
    fitted = identity.fit(vectors, jax.random.key(0), Identity())
    assert identity.sample(fitted, jax.random.key(0), 4)[:, 0].tolist() == [0, 3, 6, 9]
    for m in (10, 25):
        np.testing.assert_array_equal(identity.sample(fitted, jax.random.key(0), m), vectors)


def test_every_generator_of_the_settings_has_its_file() -> None:
    """The table and the settings name the same ones."""
    assert set(GENERATORS) == set(GENERATORS)
    assert all(callable(module.fit) and callable(module.sample) for module in GENERATORS.values())
