"""The DDPM: its samplers against exact recursions, its two parametrisations, and its trained spread."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.checks import SettingsError
from bend_jax.generate import denoiser_training, diffusion
from bend_jax.generate.diffusion import Diffusion
from bend_jax.training import Callbacks

DRAWS = 20_000
sample = jax.jit(diffusion.sample, static_argnames=("m", "latent", "settings"))
DDIM_TIMES = [  # T, steps, the timesteps, counted from 1
    (1000, 50, list(range(20, 1001, 20))),
    (100, 7, [14, 28, 42, 57, 71, 85, 100]),
    (100, 100, list(range(1, 101))),
]


def exact_moments(table: diffusion.Tables, mean0: float, sd0: float, temperature: float = 1.0) -> tuple[float, float]:
    """Mean and sd of the sampler's output for N(mean0, sd0^2) data and the analytic denoiser, in float64."""
    beta, bar, sigma = (np.asarray(a, np.float64) for a in table)
    mean, variance = 0.0, temperature**2
    for t in range(len(beta))[::-1]:
        slope, offset = posterior(bar[t], mean0, sd0)
        factor = beta[t] / np.sqrt(1 - bar[t])
        gain = (1 - factor * slope) / np.sqrt(1 - beta[t])
        mean = gain * mean - factor * offset / np.sqrt(1 - beta[t])
        variance = gain**2 * variance + (temperature**2 * sigma[t] ** 2 if t > 0 else 0.0)
    return mean, np.sqrt(variance)


def posterior(bar: Any, mean0: Any, sd0: Any) -> tuple[Any, Any]:
    """E[eps | x_t] = slope x_t + offset for N(mean0, sd0^2) data."""
    slope = (1 - bar) ** 0.5 / (bar * sd0**2 + 1 - bar)
    return slope, -slope * bar**0.5 * mean0


def analytic(mean0: Any, sd0: Any) -> Callable[..., jax.Array]:
    """The denoiser that the samplers take."""

    def predict(x: jax.Array, t: jax.Array, bar: jax.Array) -> jax.Array:
        slope, offset = posterior(bar, mean0, sd0)
        return slope * x + offset

    return predict


def draw(settings: Diffusion, mean0: float, sd0: float, temperature: float = 1.0) -> np.ndarray:
    """The package's sampler with the analytic denoiser."""
    numbers = (jnp.float32(x) for x in (mean0, sd0, temperature))
    return np.asarray(sampled(diffusion.tables(settings), *numbers), np.float64)[:, 0]


@jax.jit
def sampled(table: diffusion.Tables, mean0: jax.Array, sd0: jax.Array, temperature: jax.Array) -> jax.Array:
    """Compiled once for each number of timesteps."""
    return diffusion.ancestral(analytic(mean0, sd0), table, jax.random.key(0), (DRAWS, 1), temperature)


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


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_the_temperature_scales_all_noise(temperature: float) -> None:
    """The recursion's mean and sd; for standard normal latents the sd is the temperature times that at 1."""
    settings = Diffusion(timesteps=100)
    mean, sd = exact_moments(diffusion.tables(settings), 2.0, 0.5, temperature)
    values = draw(settings, 2.0, 0.5, temperature)
    assert abs(values.mean() - mean) <= 4 * sd / np.sqrt(DRAWS) + 1e-5
    assert abs(values.std() - sd) <= 4 * sd / np.sqrt(2 * DRAWS) + 1e-5
    np.testing.assert_allclose(draw(settings, 0.0, 1.0, temperature), temperature * draw(settings, 0.0, 1.0), atol=1e-5)


@pytest.mark.parametrize(("timesteps", "steps", "expected"), DDIM_TIMES)
def test_ddim_is_the_exact_linear_map(timesteps: int, steps: int, expected: list[int]) -> None:
    """With the analytic denoiser every step is x -> gain x + shift; their product, in float64, on the same x_T."""
    mean0, sd0, temperature = 2.0, 0.3, 0.5
    table = diffusion.tables(Diffusion(timesteps=timesteps))
    bar = np.asarray(table.alpha_bar, np.float64)
    gain, shift = 1.0, 0.0
    for t, s in zip(expected[::-1], [*expected[-2::-1], 0], strict=True):
        now, after = bar[t - 1], bar[s - 1] if s else 1.0
        slope, offset = posterior(now, mean0, sd0)
        own, from_eps = np.sqrt(after / now), np.sqrt(1 - after) - np.sqrt(after / now) * np.sqrt(1 - now)
        gain, shift = (own + from_eps * slope) * gain, (own + from_eps * slope) * shift + from_eps * offset
    key, tau = jax.random.key(3), jnp.float32(temperature)
    found = diffusion.ddim(analytic(mean0, sd0), table, key, (100, 2), tau, steps)
    start = temperature * np.asarray(jax.random.normal(key, (100, 2)), np.float64)
    np.testing.assert_allclose(found, gain * start + shift, atol=1e-4)


def test_ddim_takes_its_number_of_steps_and_the_same_net() -> None:
    """Through `sample`: an untrained net is the analytic denoiser of N(0, I), whose gain is prod cos(angle)."""
    settings = Diffusion(sampler="ddim", ddim_steps=5, width=8, blocks=1)
    net = diffusion.Denoiser(8, 1)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))
    found = sample(diffusion.Learnt(params, jnp.ones(2)), jax.random.key(1), 6, 3, settings, jnp.float32(1.0))
    angles = np.arccos(np.sqrt(np.asarray(diffusion.tables(settings).alpha_bar, np.float64)[199::200]))
    gain = np.prod(np.cos(np.diff(angles, prepend=0.0)))
    np.testing.assert_allclose(found, gain * jax.random.normal(jax.random.key(1), (6, 3)), rtol=1e-4)


def test_v_and_eps_are_two_names_of_one_denoiser() -> None:
    """eps_from_v undoes v_from_eps for any (x_0, eps, t), and takes the analytic E[v | x_t] to E[eps | x_t]."""
    table = diffusion.tables(Diffusion())
    x0, eps = jax.random.normal(jax.random.key(0), (2, 5, 3))
    t = jnp.array([0, 1, 10, 500, 999])
    bar, x = table.alpha_bar[t], diffusion.q_sample(table, x0, t, eps)
    np.testing.assert_allclose(diffusion.eps_from_v(x, diffusion.v_from_eps(x0, eps, bar), bar), eps, atol=1e-5)
    mean0, sd0, column = 2.0, 0.3, np.asarray(bar, np.float64)[:, None]
    slope, offset = posterior(column, mean0, sd0)
    noise = slope * np.asarray(x) + offset
    clean = mean0 + np.sqrt(column) * sd0**2 / (column * sd0**2 + 1 - column) * (
        np.asarray(x) - np.sqrt(column) * mean0
    )
    v = np.sqrt(column) * noise - np.sqrt(1 - column) * clean
    np.testing.assert_allclose(diffusion.eps_from_v(x, jnp.asarray(v, jnp.float32), bar), noise, atol=1e-5)


def test_the_first_loss_of_each_prediction_is_the_expected_one() -> None:
    """Standard normal latents and v_hat = 0: E v^2 = 1, and E (eps_hat - eps)^2 = E abar_t v^2 = mean abar_t."""
    latents, first = jax.random.normal(jax.random.key(0), (19, 32)), {}
    latents = (latents - latents.mean()) / latents.std()
    for prediction in ("eps", "v"):
        callbacks = Callbacks(segment=lambda name, state, losses, p=prediction: first.update({p: float(losses[0])}))
        settings = Diffusion(prediction=prediction, steps=1, batch=10_000, width=8, blocks=1)
        denoiser_training.fit(latents, [32], jax.random.key(1), settings, callbacks)
    assert first["v"] == pytest.approx(1.0, abs=0.02)
    assert first["eps"] == pytest.approx(float(diffusion.tables(Diffusion()).alpha_bar.mean()), abs=0.01)


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
        both = diffusion.q_sample(table, x, jnp.array([t, 0]), eps)
        assert float(both[0, 0]) == pytest.approx(factor + np.sqrt(variance), rel=1e-4)
        assert float(both[1, 0]) == pytest.approx(np.sqrt(1 - 1e-4) + np.sqrt(1e-4), rel=1e-4)


def test_the_untrained_denoiser_is_the_exact_one_of_standard_normal_latents() -> None:
    """E[eps | x_t] = sqrt(1 - abar_t) x_t for x_0 ~ N(0, I)."""
    settings = Diffusion()
    table, net = diffusion.tables(settings), diffusion.Denoiser(settings.width, settings.blocks)
    x, t = jax.random.normal(jax.random.key(0), (5, 3)), jnp.array([0, 1, 10, 500, 999])
    bar = table.alpha_bar[t]
    v = jnp.asarray(jax.jit(net.apply)(jax.jit(net.init)(jax.random.key(1), x, t), x, t))
    np.testing.assert_allclose(diffusion.eps_from_v(x, v, bar), jnp.sqrt(1 - bar)[:, None] * x, rtol=1e-6)


def test_a_schedule_that_still_shows_the_data_at_its_end_is_refused() -> None:
    """Sampling starts from pure noise."""
    with pytest.raises(SettingsError, match="alpha_bar"):
        Diffusion(beta_end=0.005)
    with pytest.raises(SettingsError, match="below 1"):
        Diffusion(timesteps=10)
