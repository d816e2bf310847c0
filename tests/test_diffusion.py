"""The DDPM: its sampler against the exact recursion of mean and variance, and its trained spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.config import SettingsError
from bend_jax.generate import diffusion
from bend_jax.settings import Diffusion
from bend_jax.training import SILENT

DRAWS = 20_000


def exact_moments(table: diffusion.Tables, mean0: float, sd0: float) -> tuple[float, float]:
    """Mean and sd of the sampler's output for N(mean0, sd0^2) data and the analytic denoiser, in float64."""
    beta, bar, sigma = (np.asarray(a, np.float64) for a in table)
    mean, variance = 0.0, 1.0
    for t in range(len(beta))[::-1]:
        # eps_hat = slope x + offset is the posterior mean of eps given x_t
        slope = np.sqrt(1 - bar[t]) / (bar[t] * sd0**2 + 1 - bar[t])
        offset = -slope * np.sqrt(bar[t]) * mean0
        factor = beta[t] / np.sqrt(1 - bar[t])
        gain = (1 - factor * slope) / np.sqrt(1 - beta[t])
        mean = gain * mean - factor * offset / np.sqrt(1 - beta[t])
        variance = gain**2 * variance + (sigma[t] ** 2 if t > 0 else 0.0)
    return mean, np.sqrt(variance)


def draw(settings: Diffusion, mean0: float, sd0: float) -> np.ndarray:
    """The package's sampler with the analytic denoiser."""

    def predict(x: jax.Array, t: jax.Array, bar: jax.Array) -> jax.Array:
        return jnp.sqrt(1 - bar) * (x - jnp.sqrt(bar) * mean0) / (bar * sd0**2 + 1 - bar)

    table = diffusion.tables(settings)
    sample = jax.jit(lambda key: diffusion.ancestral(predict, table, key, (DRAWS, 1)))
    return np.asarray(sample(jax.random.key(0)), np.float64)[:, 0]


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize(("mean0", "sd0"), [(0.0, 1.0), (2.0, 0.05)])
@pytest.mark.parametrize("timesteps", [100, 1000])
def test_the_sampler_follows_the_exact_recursion(variance: str, mean0: float, sd0: float, timesteps: int) -> None:
    """Mean and standard deviation of 20,000 draws are within 4 standard errors of the recursion's."""
    settings = Diffusion(variance=variance, timesteps=timesteps)
    mean, sd = exact_moments(diffusion.tables(settings), mean0, sd0)
    values = draw(settings, mean0, sd0)
    assert abs(values.mean() - mean) < 4 * sd / np.sqrt(DRAWS)
    assert abs(values.std() - sd) < 4 * sd / np.sqrt(2 * DRAWS)


def test_the_default_variance_is_exact_for_unit_latents_and_the_posteriors_is_not_for_small_ones() -> None:
    """Why latents are whitened: at sd 1 nothing is lost, at sd 0.01 the posterior's sampler keeps two thirds."""
    beta, posterior = (diffusion.tables(Diffusion(variance=v)) for v in ("beta", "posterior"))
    assert exact_moments(beta, 0.0, 1.0)[1] == pytest.approx(1.0, abs=1e-3)
    assert exact_moments(posterior, 0.0, 1.0)[1] == pytest.approx(0.996, abs=1e-3)
    assert exact_moments(posterior, 0.0, 0.01)[1] / 0.01 == pytest.approx(0.656, abs=2e-3)


def test_noise_is_added_in_one_go_as_step_by_step() -> None:
    """sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps has the moments of eq. 1 iterated, each row at its own t."""
    table = diffusion.tables(Diffusion())
    beta = np.asarray(table.beta, np.float64)
    for t in (0, 10, 999):
        factor, variance = 1.0, 0.0
        for b in beta[: t + 1]:
            factor, variance = factor * np.sqrt(1 - b), (1 - b) * variance + b
        x, eps = jnp.ones((2, 1)), jnp.ones((2, 1))
        both = diffusion.add_noise(table, x, jnp.array([t, 0]), eps)
        assert float(both[0, 0]) == pytest.approx(factor + np.sqrt(variance), rel=1e-4)
        assert float(both[1, 0]) == pytest.approx(np.sqrt(1 - 1e-4) + np.sqrt(1e-4), rel=1e-4)


def test_the_untrained_denoiser_is_the_exact_one_of_standard_normal_latents() -> None:
    """E[eps | x_t] = sqrt(1 - abar_t) x_t for x_0 ~ N(0, I)."""
    settings = Diffusion()
    table, net = diffusion.tables(settings), diffusion.Denoiser(settings.width, settings.blocks)
    x, t = jax.random.normal(jax.random.key(0), (5, 3)), jnp.array([0, 1, 10, 500, 999])
    bar = table.alpha_bar[t]
    out = net.apply(net.init(jax.random.key(1), x, t, bar), x, t, bar)
    np.testing.assert_allclose(out, jnp.sqrt(1 - bar)[:, None] * x, rtol=1e-6)


def test_training_keeps_the_spread_of_its_latents() -> None:
    """100 standard normal latents of 16 numbers: samples have their spread, and differ from all of them."""
    latents = jax.random.normal(jax.random.key(0), (100, 16))
    latents = (latents - latents.mean(0)[None]) / latents.std(0)[None]
    settings = Diffusion(steps=500)
    params = diffusion.fit(latents, jax.random.key(1), settings, SILENT)
    samples = diffusion.sample(params, jax.random.key(2), 400, 16, settings)
    assert 0.85 < float(samples.std(0).mean()) < 1.1


def test_held_out_vectors_choose_the_average_below_twenty_the_last_one_is_taken() -> None:
    """Both ways end with finite parameters of the same structure."""
    settings = Diffusion(steps=20, segment=10, width=8, blocks=1, batch=8)
    for k in (19, 20):
        latents = jax.random.normal(jax.random.key(0), (k, 4))
        params = diffusion.fit(latents, jax.random.key(1), settings, SILENT)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(params))


def test_a_schedule_that_still_shows_the_data_at_its_end_is_refused() -> None:
    """Sampling starts from pure noise."""
    with pytest.raises(SettingsError, match="alpha_bar"):
        Diffusion(beta_end=0.005)
    with pytest.raises(SettingsError, match="below 1"):
        Diffusion(timesteps=10)
