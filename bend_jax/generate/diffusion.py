"""The latent DDPM (BEND eq. 1-6 and 9; Ho et al. 2020): training, ancestral sampling, DDIM (Song et al. 2021)."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bend_jax.checks import Settings, SettingsError, setting

VARIANCES = ("beta", "posterior")


PREDICTIONS = ("eps", "v")
SAMPLERS = ("ddpm", "ddim")
DENOISERS = ("mlp", "conv")
SELECTIONS = ("last", "accuracy")
OF_CONV = ("shared_timestep", "clamp_x0", "clamp_xt", "ema_warmup", "select")  # settings that only that denoiser has


class Diffusion(Settings):
    """The latent DDPM (BEND, equations 1 to 6 and 9; Ho et al. 2020)."""

    timesteps: int = setting("T, from data to noise", default=1000, least=1, most=100_000)
    beta_start: float = setting(
        "noise of the first timestep; both ends scale with 1000 / timesteps", default=1e-4, above=0
    )
    beta_end: float = setting("noise of the last timestep", default=0.02, above=0)
    prediction: str = setting(
        "what the net predicts: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) x_0",
        default="v",
        choices=PREDICTIONS,
    )
    sampler: str = setting(
        'ancestral, all timesteps; or "ddim", deterministic in ddim_steps', default="ddpm", choices=SAMPLERS
    )
    ddim_steps: int = setting("timesteps that ddim visits", default=50, least=1)
    variance: str = setting(
        'of a sampling step, as in eq. 3: exact for whitened latents of a Gaussian; or "posterior"',
        default="beta",
        choices=VARIANCES,
    )
    width: int = setting("of the denoiser; a large one that is trained long makes copies [ours]", default=64, least=1)
    blocks: int = setting("residual blocks of the denoiser", default=3, least=1)
    steps: int = setting("at most: the held-out loss may end it before", default=2000, least=1)
    segment: int = setting("steps between two evaluations of the held-out loss", default=250, least=1)
    patience: int = setting("segments without a better held-out loss before it stops", default=4, least=1)
    folds: int = setting(
        "parts of the checkpoints, for mlp: a denoiser is trained without each, and the steps of least held-out "
        "loss count, 0 steps among them; 0: no parts, and all steps count",
        default=5,
        least=0,
    )
    axes: int = setting(
        "latents, at most, that are searched for structure, for mlp; the others stay Gaussian; 0: all are diffused",
        default=16,
        least=0,
    )
    batch: int = setting("(checkpoint, timestep, noise) triples a step, for each fold", default=64, least=1)
    lr: float = setting("of AdamW", default=1e-3, above=0)
    weight_decay: float = setting("of AdamW", default=0.0, least=0)
    ema: float = setting(
        "decay, after a warm-up, of the average of the parameters that samples", default=0.9999, least=0, below=1
    )
    denoiser: str = setting(
        'residual blocks that start as the exact Gaussian denoiser; "conv": p-diff\'s 1-D convolutions, 2.4 million '
        "weights, all checkpoints a step, and the settings below",
        default="mlp",
        choices=DENOISERS,
        added=True,
    )
    shared_timestep: bool = setting(
        "conv's whole batch conditioned on its first row's timestep, as in p-diff's release", default=False, added=True
    )
    clamp_x0: bool = setting("to +-1 what conv's sampler takes for x_0, as p-diff's", default=False, added=True)
    clamp_xt: bool = setting("to +-1 conv's x_t after every sampling step, as p-diff's", default=False, added=True)
    ema_warmup: bool = setting(
        "whether conv's average warms up; p-diff's does not, and keeps (ema ** steps) of the first parameters",
        default=True,
        added=True,
    )
    select: str = setting(
        'which of conv\'s steps is kept; "accuracy": every segment steps the best of ten samples on validation images',
        default="last",
        choices=SELECTIONS,
        added=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1:
            raise SettingsError("folds=1 leaves nothing to train on: give 0, for none, or at least 2")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in OF_CONV}
        changed = [f"{f.name}={values[f.name]}" for f in fields(self) if values.get(f.name, f.default) != f.default]
        if self.denoiser != "conv" and changed:
            raise SettingsError(f"{', '.join(changed)}: only denoiser=conv has that; got denoiser={self.denoiser}")
        if self.sampler == "ddim" and self.ddim_steps > self.timesteps:
            raise SettingsError(f"ddim_steps={self.ddim_steps} is more than timesteps={self.timesteps}")
        alpha_bar(self)


def alpha_bar(settings: Diffusion) -> np.ndarray:
    """[T] cumulative products of 1 - beta_t for the linear schedule, in float64 (BEND below eq. 5).

    Raises SettingsError for a schedule that has a beta of 1 or more, or that leaves alpha_bar[T] > 1e-3: its last
    step would still show the data, and sampling starts from pure noise.
    """
    scale = 1000 / settings.timesteps  # the same total noise for any T
    betas = np.linspace(settings.beta_start * scale, settings.beta_end * scale, settings.timesteps)
    if betas.max() >= 1:
        raise SettingsError(f"timesteps={settings.timesteps} gives beta_t up to {betas.max():.3g}, must be below 1")
    result = np.cumprod(1 - betas)
    if result[-1] > 1e-3:
        raise SettingsError(f"beta_end leaves alpha_bar[T] = {result[-1]:.3g}, must be at most 1e-3: raise it")
    return result


class Tables(NamedTuple):
    """The schedule, one number a timestep; index 0 is t = 1."""

    beta: Float[Array, " T"]
    alpha_bar: Float[Array, " T"]
    sigma: Float[Array, " T"]  # sd of the noise that a sampling step adds


def tables(settings: Diffusion) -> Tables:
    """beta_t, alpha_bar_t and the sampler's sigma_t, worked out in float64.

    sigma_t^2 is beta_t (eq. 3: exact where the latents are standard normal) or the posterior's variance
    beta_t (1 - alpha_bar[t-1]) / (1 - alpha_bar[t]) (exact where they are one point).
    """
    bar = alpha_bar(settings)
    before = np.concatenate([[1.0], bar[:-1]])
    beta = 1 - bar / before
    variance = beta if settings.variance == "beta" else beta * (1 - before) / (1 - bar)
    return Tables(*(jnp.asarray(a, jnp.float32) for a in (beta, bar, np.sqrt(variance))))


class Denoiser(nn.Module):
    """v_hat(x_t, t), whose last layer is zero at the start; `eps_from_v` makes eps_hat of it.

    Zero is the exact E[v | x_t] of standard normal latents, so that training starts from a Gaussian instead of having
    to find it; a small net keeps its spread where a plain one loses it [ours].
    """

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Float[Array, "n latent"], t: Int[Array, " n"]) -> Float[Array, "n latent"]:
        time = nn.Dense(self.width, name="time")(timestep_embedding(t, self.width))
        h = nn.Dense(self.width, name="enter")(x)
        for i in range(self.blocks):
            y = nn.silu(nn.LayerNorm(name=f"norm{i}")(h) + nn.Dense(self.width, name=f"time{i}")(nn.silu(time)))
            h = h + nn.Dense(self.width, name=f"dense{i}")(y)
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="leave")(nn.silu(h))


class Learnt(flax.struct.PyTreeNode):
    """A trained denoiser: the averaged parameters, and which of the first n latents it is for (1, else 0)."""

    params: Any
    mask: Float[Array, " n"]


def masked(
    net: Denoiser, params: Any, mask: Float[Array, " latent"], x: Float[Array, "n latent"], t: Int[Array, " n"]
) -> Float[Array, "n latent"]:
    """v_hat of the masked latents from them alone; 0, which is exact for Gaussian ones, for the others."""
    return mask[None] * jnp.asarray(net.apply(params, mask[None] * x, t))


def eps_from_v(
    x: Float[Array, "n latent"], v: Float[Array, "n latent"], alpha_bar: Float[Array, " n"]
) -> Float[Array, "n latent"]:
    """eps of x_t and v: sqrt(1 - abar_t) x_t + sqrt(abar_t) v (Salimans & Ho 2022, appendix D)."""
    bar = alpha_bar[:, None]
    return jnp.sqrt(1 - bar) * x + jnp.sqrt(bar) * v


def v_from_eps(
    x: Float[Array, "n latent"], eps: Float[Array, "n latent"], alpha_bar: Float[Array, " n"]
) -> Float[Array, "n latent"]:
    """v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022)."""
    bar = alpha_bar[:, None]
    return jnp.sqrt(bar) * eps - jnp.sqrt(1 - bar) * x


def timestep_embedding(t: Int[Array, " n"], width: int) -> Float[Array, "n width"]:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017)."""
    half = (width + 1) // 2
    angles = t[:, None] * jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[:, :width]


def q_sample(
    table: Tables, x: Float[Array, "n latent"], t: Int[Array, " n"], eps: Float[Array, "n latent"]
) -> Float[Array, "n latent"]:
    """x_t of x_0 in one go (eq. 1 iterated): sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. t counts from 0."""
    bar = table.alpha_bar[t][:, None]
    return jnp.sqrt(bar) * x + jnp.sqrt(1 - bar) * eps


def sample(
    learnt: Learnt, key: Key[Array, ""], m: int, latent: int, settings: Diffusion, temperature: Float[Array, ""]
) -> Float[Array, "m latent"]:
    """m latents at once: ancestral (eq. 4), or by DDIM. v_hat is 0 for those that are not diffused."""
    net, table = Denoiser(settings.width, settings.blocks), tables(settings)
    n = learnt.mask.shape[0]

    def predict(x: Float[Array, "m latent"], t: Int[Array, ""], bar: Float[Array, ""]) -> Float[Array, "m latent"]:
        v = masked(net, learnt.params, learnt.mask, x[:, :n], jnp.full(m, t))
        return eps_from_v(x, jnp.pad(v, ((0, 0), (0, latent - n))), jnp.full(m, bar))

    if settings.sampler == "ddim":
        return ddim(predict, table, key, (m, latent), temperature, settings.ddim_steps)
    return ancestral(predict, table, key, (m, latent), temperature)


def ancestral(
    predict: Callable[..., Float[Array, "m latent"]],
    table: Tables,
    key: Key[Array, ""],
    shape: tuple[int, int],
    temperature: Float[Array, ""],
) -> Float[Array, "m latent"]:
    """x_{t-1} = (x_t - beta_t / sqrt(1 - abar_t) eps_hat) / sqrt(alpha_t) + temperature sigma_t z (eq. 3 and 5).

    x_T ~ temperature * N(0, I); predict(x, t, abar_t) -> eps_hat. The last step adds no noise. x_t is never clamped
    (the published code's clamp to +-1 would cut a unit-variance latent). For the exact denoiser of N(0, I) all steps
    are linear, so that the samples' sd is the temperature times what it is at 1.
    """
    key_start, key_steps = jax.random.split(key)
    timesteps = table.beta.shape[0]

    def step(x: Float[Array, "m latent"], t: Int[Array, ""]) -> tuple[Float[Array, "m latent"], None]:
        beta, bar = table.beta[t], table.alpha_bar[t]
        mean = (x - beta / jnp.sqrt(1 - bar) * predict(x, t, bar)) / jnp.sqrt(1 - beta)
        z = jax.random.normal(jax.random.fold_in(key_steps, t), shape)
        return mean + temperature * jnp.where(t > 0, table.sigma[t], 0.0) * z, None

    x, _ = jax.lax.scan(step, temperature * jax.random.normal(key_start, shape), jnp.arange(timesteps)[::-1])
    return x


def ddim(
    predict: Callable[..., Float[Array, "m latent"]],
    table: Tables,
    key: Key[Array, ""],
    shape: tuple[int, int],
    temperature: Float[Array, ""],
    steps: int,
) -> Float[Array, "m latent"]:
    """Song et al. 2021, eq. 12 with eta = 0: x_s = sqrt(abar_s) x0_hat + sqrt(1 - abar_s) eps_hat, no noise added.

    x_T ~ temperature * N(0, I); x0_hat = (x_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t). t runs down `steps` evenly
    spaced timesteps, T the first, s is the next of them, and abar_s = 1 at the end.
    """
    times = jnp.asarray(np.arange(1, steps + 1) * table.beta.shape[0] // steps - 1, jnp.int32)
    bars = table.alpha_bar[times]
    nexts = jnp.concatenate([jnp.ones(1), bars[:-1]])

    def step(x: Float[Array, "m latent"], at: tuple[Array, Array, Array]) -> tuple[Float[Array, "m latent"], None]:
        t, bar, after = at
        eps = predict(x, t, bar)
        clean = (x - jnp.sqrt(1 - bar) * eps) / jnp.sqrt(bar)
        return jnp.sqrt(after) * clean + jnp.sqrt(1 - after) * eps, None

    start = temperature * jax.random.normal(key, shape)
    x, _ = jax.lax.scan(step, start, (times, bars, nexts), reverse=True)
    return x


def cost(settings: Diffusion, latent: int, samples: int) -> float:
    """Floating-point operations of its training, one number of latents with all its folds, and of so many samples: 6 a
    weight and row of a training step, 2 of a forward pass."""
    diffused = min(settings.axes, latent) or latent
    weights = settings.width * (2 * diffused + settings.width * (1 + 2 * settings.blocks))
    visited = settings.timesteps if settings.sampler == "ddpm" else settings.ddim_steps
    denoisers = settings.folds + 1
    return 1.0 * weights * (6 * denoisers * settings.steps * settings.batch + 2 * visited * samples)
