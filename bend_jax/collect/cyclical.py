"""Cosine cycles with warm restarts: snapshot ensembles (Huang et al. 2017), FGE (Garipov et al. 2018), and with noise
cSGLD and cSGHMC (Zhang et al. 2020)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt32

from bend_jax.checks import SettingsError, setting
from bend_jax.collect import fine_tuning
from bend_jax.collect.collector import Checkpoints, Collector, Cost, Problem, Work
from bend_jax.collect.fine_tuning import MIXUP, Schedule, fine_tune
from bend_jax.collect.frozen_features import FineTuning, fine_tuning_cost
from bend_jax.subset import Subset
from bend_jax.training import SILENT, Callbacks, Examples, Model

NOISES = ("none", "langevin", "momentum")


class Cyclical(FineTuning):
    """Cosine cycles from the base: snapshots, FGE, cSGLD and cSGHMC (Huang et al. 2017; Zhang et al. 2020).

    The base is the first of the k checkpoints.
    """

    epochs: int = setting("of a cycle", default=4, least=1)
    per_cycle: int = setting("checkpoints of a cycle, at the ends of its last epochs", default=1, least=1)
    lr: float = setting("at the start of a cycle; half a cosine from there to 0", default=0.05, above=0)
    noise: str = setting(
        'in the epochs that end with a checkpoint: "langevin" (cSGLD, no momentum) or "momentum" (cSGHMC)',
        default="none",
        choices=NOISES,
    )
    temperature: float = setting("of that noise; below 1: a sharpened posterior", default=1.0, least=0)
    mixup: float = setting(MIXUP, default=0.0, least=0, added=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_cycle > self.epochs:
            raise SettingsError(f"per_cycle={self.per_cycle} is more than the {self.epochs} epochs of a cycle")


class SamplerState(NamedTuple):
    """Velocity, steps so far, and the key of the noise."""

    velocity: Any
    step: Int[Array, ""]
    key: UInt32[Array, "2"]


def sampler(
    settings: Cyclical,
    rate: Callable[[Int[Array, ""]], Float[Array, ""]],
    is_noisy: Callable[[Int[Array, ""]], Array],
    n: int,
    key: Key[Array, ""],
) -> optax.GradientTransformation:
    """v <- a v - lr (grad + decay w) + sqrt(2 (1 - a) lr T / n) eps; w <- w + v (Zhang et al. 2020, Algorithm 1).

    a is the momentum (0 for "langevin"), T the temperature, n the number of images: for a small rate the stationary
    distribution is exp(-n loss / T) up to a constant. The noise is added where is_noisy(step), and never with
    settings.noise="none", which leaves SGD.
    """
    friction = 1.0 if settings.noise == "langevin" else 1 - settings.momentum
    heat = 0.0 if settings.noise == "none" else 2 * friction * settings.temperature / n

    def init(params: Any) -> SamplerState:
        return SamplerState(jax.tree.map(jnp.zeros_like, params), jnp.int32(0), jax.random.key_data(key))

    def update(grads: Any, state: SamplerState, params: Any = None) -> tuple[Any, SamplerState]:
        lr = rate(state.step)
        sd = jnp.where(is_noisy(state.step), jnp.sqrt(heat * lr), 0.0)
        drawn = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def move(v: Array, g: Array, w: Array) -> Array:
            new = (1 - friction) * v - lr * (g + settings.weight_decay * w)
            return new + sd * jax.random.normal(drawn, w.shape) if heat else new

        velocity = jax.tree.map(move, state.velocity, grads, params)
        return velocity, SamplerState(velocity, state.step + 1, state.key)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Cyclical,
    *,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """The base and k - 1 vectors [k, dim] from the ends of the last per_cycle epochs of each cycle."""
    n = data.labels.shape[0]
    per_epoch = n // settings.batch
    length = settings.epochs * per_epoch
    cycles = (settings.k - 1) // settings.per_cycle
    quiet = settings.epochs - settings.per_cycle  # epochs of a cycle without a checkpoint
    key_training, key_noise = jax.random.split(key)

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        return settings.lr / 2 * (1 + jnp.cos(jnp.pi * (step % length) / length))

    def is_noisy(step: Int[Array, ""]) -> Array:
        return step % length >= quiet * per_epoch

    def slot(epoch: Int[Array, ""]) -> Int[Array, ""]:
        cycle, last = (epoch - 1) // settings.epochs, (epoch - 1) % settings.epochs
        return jnp.where(last >= quiet, 1 + cycle * settings.per_cycle + last - quiet, -1)

    noisy = sampler(settings, rate, is_noisy, n, key_noise)
    schedule = Schedule("cyclical", noisy, cycles * settings.epochs, slot, mixup=settings.mixup)
    state = fine_tune(schedule, model, variables, subset, data, key_training, settings, callbacks)
    return Checkpoints(state.extra["saved"])


def needs(settings: Cyclical, problem: Problem) -> None:
    """Raise SettingsError for what it cannot do: k is 1 (the base) and a multiple of per_cycle."""
    if (settings.k - 1) % settings.per_cycle:
        raise SettingsError(f"k={settings.k} is not 1 (the base) and a multiple of per_cycle={settings.per_cycle}")
    fine_tuning.needs(settings, problem)


def cost(settings: Cyclical, work: Work) -> Cost:
    """All epochs of all cycles."""
    epochs = (settings.k - 1) // settings.per_cycle * settings.epochs
    return fine_tuning_cost(settings, work, epochs, epochs)


COLLECTOR = Collector("cyclical", Cyclical(), collect, needs, cost)
