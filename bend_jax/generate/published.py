"""p-diff's training, sampling and selection of its convolutional denoiser, as its release of March 2024 has them.

What the release does and this package otherwise does not is a switch in the settings: the whole batch conditioned on
its first row's timestep, x_0 and x_t clamped to +-1 at every step, an average that does not warm up, and the choice of
the step by accuracy. The release looks at test images; here they are validation images.
"""

import warnings
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from bend_jax.generate import diffusion
from bend_jax.generate.convolutional_denoiser import ConvolutionalDenoiser, multiplications
from bend_jax.generate.diffusion import Diffusion, Tables, eps_from_v, q_sample, tables, v_from_eps
from bend_jax.generate.latents import LatentCodec, decode
from bend_jax.recipe import PROGRAMS
from bend_jax.training import Callbacks, State, Step, make_step, once, start_with_ema, train

LOOKED_AT = 10  # samples whose best accuracy judges a step
PART = 250  # steps between two saves


def fit(
    latents: Float[Array, "k latent"],
    key: Key[Array, ""],
    settings: Diffusion,
    callbacks: Callbacks,
    codec: LatentCodec,
) -> Any:
    """Train on all latents at once; returns the averaged parameters, of the last step or of the best one.

    select="accuracy": every `segment` steps ten samples are decoded by `codec`, and the parameters of the best single
    accuracy (`callbacks.score`; ties: the first) are kept. Without validation images there is no choice: a warning
    says that the last step is kept.
    """
    key_init, key_steps, key_look = jax.random.split(key, 3)
    params = once(ConvolutionalDenoiser(settings.timesteps).init)(key_init, latents[:1], jnp.zeros(1, jnp.int32))
    chooses = settings.select == "accuracy" and callbacks.score is not None
    if settings.select == "accuracy" and not chooses:
        warnings.warn(
            "bend: diffusion.select=accuracy chooses the step on validation images, and there are none: the last step "
            "is kept",
            stacklevel=2,
        )

    @jax.jit
    def samples(codec: LatentCodec, params: Any, key: Key[Array, ""]) -> Float[Array, "m dim"]:
        return decode(codec, sample(params, key, LOOKED_AT, latents.shape[1], settings, jnp.float32(1)))

    def look(state: State) -> State:
        assert callbacks.score is not None
        drawn = samples(codec, state.ema, jax.random.fold_in(key_look, state.step))
        return judged(state, callbacks.score(drawn))

    step, optimizer = _training(settings)
    state = train(
        "diffusion",
        step,
        start_with_ema(params, optimizer),
        {"latents": latents, "key": key_steps},
        steps=settings.steps,
        segment=settings.segment,
        longest=min(PART, settings.segment),
        callbacks=callbacks,
        look=look if chooses else None,
    )
    return state.best if chooses and np.isfinite(state.best_loss) else state.ema


@lru_cache(maxsize=PROGRAMS)
def _training(settings: Diffusion) -> tuple[Step, optax.GradientTransformation]:
    """The step and its optimiser: the same ones for the same settings, so that `train` compiles them once."""
    net = ConvolutionalDenoiser(settings.timesteps)

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Array, Any]:
        key_t, key_eps = jax.random.split(key)
        x, table = data["latents"], tables(settings)
        t = jax.random.randint(key_t, (x.shape[0],), 0, settings.timesteps)
        return denoising_loss(net, params, table, settings, x, t, jax.random.normal(key_eps, x.shape)), extra

    optimizer = optax.adamw(settings.lr, weight_decay=settings.weight_decay)
    return make_step(loss, optimizer, settings.ema, warms_up=settings.ema_warmup), optimizer


def denoising_loss(
    net: ConvolutionalDenoiser,
    params: Any,
    table: Tables,
    settings: Diffusion,
    x: Float[Array, "n latent"],
    t: Int[Array, " n"],
    eps: Float[Array, "n latent"],
) -> Float[Array, ""]:
    """Mean squared error of eps or v (eq. 9). shared_timestep: x_t is of each row's own t, the net gets the first's."""
    noisy = q_sample(table, x, t, eps)
    target = eps if settings.prediction == "eps" else v_from_eps(x, eps, table.alpha_bar[t])
    given = jnp.full_like(t, t[0]) if settings.shared_timestep else t
    return jnp.mean((jnp.asarray(net.apply(params, noisy, given)) - target) ** 2)


def judged(state: State, accuracies: Float[np.ndarray, " n"]) -> State:
    """The state with the EMA as its best, where the best of these accuracies is above all before.

    A step without one finite accuracy is never the best. best_loss and held_loss are error rates.
    """
    error = jnp.float32(1 - np.max(accuracies, initial=-np.inf, where=np.isfinite(accuracies)))
    is_better = bool(error < state.best_loss)
    return state._replace(
        best=jax.tree.map(jnp.copy, state.ema) if is_better else state.best,
        best_loss=jnp.minimum(error, state.best_loss),
        held_loss=error,
    )


def sample(
    params: Any, key: Key[Array, ""], m: int, latent: int, settings: Diffusion, temperature: Float[Array, ""]
) -> Float[Array, "m latent"]:
    """m latents at once: ancestral with the release's clamps, or by DDIM."""
    net, table = ConvolutionalDenoiser(settings.timesteps), tables(settings)

    def predict(x: Float[Array, "m latent"], t: Int[Array, ""], bar: Float[Array, ""]) -> Float[Array, "m latent"]:
        found = jnp.asarray(net.apply(params, x, jnp.full(m, t)))
        return found if settings.prediction == "eps" else eps_from_v(x, found, jnp.full(m, bar))

    if settings.sampler == "ddim":
        return diffusion.ddim(predict, table, key, (m, latent), temperature, settings.ddim_steps)
    return clamped(predict, table, key, (m, latent), temperature, settings.clamp_x0, settings.clamp_xt)


def clamped(
    predict: Any,
    table: Tables,
    key: Key[Array, ""],
    shape: tuple[int, int],
    temperature: Float[Array, ""],
    clamp_x0: bool,
    clamp_xt: bool,
) -> Float[Array, "m latent"]:
    """`diffusion.ancestral`, written with x0_hat so that it can be clamped to +-1; x_t can be after every step.

    x_{t-1} = posterior mean of x0_hat and x_t + temperature sigma_t z (Ho et al. 2020, eq. 7). Without clamps the same
    numbers. The release's "fixedlarge" takes the posterior's variance at the first timestep, where no noise is added.
    """
    key_start, key_steps = jax.random.split(key)
    before = jnp.concatenate([jnp.ones(1), table.alpha_bar[:-1]])

    def limit(x: Float[Array, "m latent"], on: bool) -> Float[Array, "m latent"]:
        return jnp.clip(x, -1, 1) if on else x

    def step(x: Float[Array, "m latent"], t: Int[Array, ""]) -> tuple[Float[Array, "m latent"], None]:
        beta, bar, last = table.beta[t], table.alpha_bar[t], before[t]
        clean = limit((x - jnp.sqrt(1 - bar) * predict(x, t, bar)) / jnp.sqrt(bar), clamp_x0)
        mean = (beta * jnp.sqrt(last) * clean + (1 - last) * jnp.sqrt(1 - beta) * x) / (1 - bar)
        z = jax.random.normal(jax.random.fold_in(key_steps, t), shape)
        return limit(mean + temperature * jnp.where(t > 0, table.sigma[t], 0.0) * z, clamp_xt), None

    times = jnp.arange(table.beta.shape[0])[::-1]
    x, _ = jax.lax.scan(step, temperature * jax.random.normal(key_start, shape), times)
    return x


def cost(settings: Diffusion, k: int, latent: int, samples: int) -> float:
    """Floating-point operations of its training on k latents and of so many samples."""
    once = 2.0 * multiplications(latent)
    visited = settings.timesteps if settings.sampler == "ddpm" else settings.ddim_steps
    looks = settings.steps // settings.segment * LOOKED_AT if settings.select == "accuracy" else 0
    return once * (3 * settings.steps * k + visited * (samples + looks))
