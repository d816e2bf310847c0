"""BEND's and p-diff's generator: standardise, encode, whiten, diffuse; and back."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate import autoencoder as coder
from bend_jax.generate import denoiser_training, diffusion, low_rank_gaussian, published, structure
from bend_jax.generate import latents as coding
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.denoiser_training import Evidence
from bend_jax.generate.diffusion import Diffusion
from bend_jax.generate.generator import Generator, Size
from bend_jax.generate.latents import LatentCodec, decode, fit_latents, rank
from bend_jax.generate.low_rank_gaussian import LowRankGaussian
from bend_jax.training import SILENT, Callbacks


class Bend(Settings):
    """BEND's and p-diff's generator: autoencoder, then a DDPM on its latents."""

    autoencoder: Autoencoder = setting("between vectors and latents", default=Autoencoder)
    diffusion: Diffusion = setting("on the latents", default=Diffusion)
    rest: bool = setting("whether what the autoencoder leaves out is drawn from its Gaussian", default=True)
    temperature: float = setting(
        "of all the sampler's noise: below 1 nearer to the mean, above 1 more diverse", default=1.0, least=0
    )


PUBLISHED = Bend(
    autoencoder=Autoencoder(
        kind="conv",
        fold=5,
        steps=30000,
        lr=1e-3,
        schedule="constant",
        weight_decay=2e-6,
        input_noise=1e-3,
        latent_noise=0.1,
        standardise=False,
        instance_norm=True,
        clamp_latents=True,
        scale_latents=False,
        whiten=False,
    ),
    rest=False,
    diffusion=Diffusion(
        denoiser="conv",
        folds=0,
        axes=0,
        timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        prediction="eps",
        sampler="ddpm",
        variance="beta",
        steps=30000,
        segment=3000,
        lr=1e-3,
        weight_decay=2e-6,
        ema=0.9999,
        shared_timestep=True,
        clamp_x0=True,
        clamp_xt=True,
        ema_warmup=False,
        select="accuracy",
    ),
)
"""p-diff's release of March 2024, errors included; `dataclasses.replace` turns each of them off. It chooses by accuracy
on validation images, where the release looks at test images. `autoencoder.fold`: 5 is its medium, 3 its small.
"""


class Fitted(flax.struct.PyTreeNode):
    """What `fit` returns and `sample` draws from."""

    latents: LatentCodec
    denoiser: Any  # what the denoiser's training returned
    evidence: Evidence | None  # None of the convolutional one
    rest: low_rank_gaussian.Fitted | None  # of vectors less what the autoencoder makes of them
    temperature: Float[Array, ""]
    settings: Diffusion = flax.struct.field(pytree_node=False)


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Bend, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """Train the autoencoder on the vectors and the DDPM on their latents."""
    key_coder, key_denoiser = jax.random.split(key)
    latents, white = fit_latents(vectors, key_coder, settings.autoencoder, callbacks)
    if settings.diffusion.denoiser == "conv":
        denoiser, evidence = published.fit(white, key_denoiser, settings.diffusion, callbacks, latents), None
    else:
        latents, white, counts = turned(latents, white, settings.diffusion.axes, vectors)
        denoiser, evidence = denoiser_training.fit(white, counts, key_denoiser, settings.diffusion, callbacks)
    rest = None
    if settings.rest:
        left = vectors - jax.jit(decode)(latents, white)
        rest = low_rank_gaussian.fit(left, key, LowRankGaussian())
    return Fitted(latents, denoiser, evidence, rest, jnp.float32(settings.temperature), settings.diffusion)


def turned(
    latents: LatentCodec, white: Float[Array, "k rank"], axes: int, vectors: Float[Array, "k dim"]
) -> tuple[LatentCodec, Float[Array, "k rank"], list[int]]:
    """Latents whose first ones carry structure, if any does, and the numbers of them to diffuse; axes=0: all as they
    are."""
    k, most = white.shape
    if axes == 0:
        return latents, white, [most]
    found = structure.find(np.asarray(white), min(axes, most, max(k // 10, 1)))
    latents = coding.turn(latents, jnp.asarray(found.turn, white.dtype))
    return latents, coding.encode(latents, vectors), found.counts


def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m new vectors, all at once: latents by diffusion, decoded, and what the autoencoder leaves out."""
    settings, width = fitted.settings, rank(fitted.latents)
    return _members(fitted, _drawn(fitted.denoiser, key, m, width, settings, fitted.temperature), key, m)


@partial(jax.jit, static_argnames=("m", "width", "settings"))
def _drawn(
    denoiser: Any, key: Key[Array, ""], m: int, width: int, settings: Diffusion, temperature: Float[Array, ""]
) -> Float[Array, "m width"]:
    """Latents: a program of its own, which does not depend on how many checkpoints there were."""
    draw = published.sample if settings.denoiser == "conv" else diffusion.sample
    return draw(denoiser, key, m, width, settings, temperature)


@partial(jax.jit, static_argnames="m")
def _members(fitted: Fitted, latents: Float[Array, "m width"], key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    members = decode(fitted.latents, latents)
    if fitted.rest is None:
        return members
    key_rest = jax.random.fold_in(key, 1)
    return members + low_rank_gaussian.sample(fitted.rest.replace(scale=fitted.temperature), key_rest, m)


def encode(fitted: Fitted, vectors: Float[Array, "n dim"]) -> Float[Array, "n latent"]:
    """The latents that the DDPM is trained on and draws: whitened, so that the checkpoints' have unit variance."""
    return coding.encode(fitted.latents, vectors)


def noised(fitted: Fitted, key: Key[Array, ""], vectors: Float[Array, "n dim"]) -> Float[Array, "n latent"]:
    """The same with the noise that the autoencoder is trained with (`latents.noised`): p-diff's "adding noise"."""
    return coding.noised(fitted.latents, key, vectors)


def learnt(fitted: Fitted) -> dict[str, int | float | None] | None:
    """The evidence as plain numbers; None of the convolutional denoiser. Losses are None without folds."""
    if fitted.evidence is None:
        return None
    found = {name: float(x) for name, x in fitted.evidence._asdict().items()}
    losses = {name: x if np.isfinite(x) else None for name, x in found.items()}
    return {**losses, "step": int(found["step"]), "latents": int(found["latents"])}


def cost(settings: Bend, size: Size) -> float:
    """Floating-point operations of both trainings and of the samples."""
    latent = coder.width(settings.autoencoder, size.k, size.dim)
    trained = coder.cost(settings.autoencoder, size.k, size.dim)
    if settings.diffusion.denoiser == "conv":
        return trained + published.cost(settings.diffusion, size.k, latent, size.m * size.draws)
    return trained + diffusion.cost(settings.diffusion, latent, size.m * size.draws)


def needs(settings: Bend, k: int) -> None:
    """Raise SettingsError for a single checkpoint, unless nothing is scaled by the spread of several."""
    coding.needs(settings.autoencoder, k)


GENERATOR = Generator(
    "bend",
    Bend(),
    fit,
    sample,
    needs=needs,
    cost=cost,
    knob="temperature",
    encode=encode,
    noised=noised,
    learnt=learnt,
    presets={"published": PUBLISHED},
)
