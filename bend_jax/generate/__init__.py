"""Generators: new vectors out of k checkpoints. One file an algorithm; `GENERATE` is the table of them.

fit(vectors [k, dim], key, settings, *, watch) -> fitted;  sample(fitted, key, m) -> [m, dim]

What `fit` returns is a pytree. For the generators of `settings.KNOBS` it has the knob as a leaf, so that
fitted.replace(scale=jnp.float32(0.5)) is the same fit with other members.
"""

from types import ModuleType
from typing import Any

from bend_jax.checks import SettingsError
from bend_jax.generate import (
    average,
    average16,
    bend,
    gaussian,
    identity,
    interpolate,
    low_rank_gaussian,
    noise,
    random_latent,
    reconstruction,
    resample,
)
from bend_jax.generate.average import Average
from bend_jax.generate.average16 import MEANS_OF, Average16
from bend_jax.generate.bend import Bend
from bend_jax.generate.gaussian import Gaussian
from bend_jax.generate.identity import Identity
from bend_jax.generate.interpolate import Interpolate
from bend_jax.generate.low_rank_gaussian import LowRankGaussian
from bend_jax.generate.noise import Noise
from bend_jax.generate.random_latent import RandomLatent
from bend_jax.generate.reconstruction import Reconstruction
from bend_jax.generate.resample import Resample

GENERATORS: dict[str, Any] = {
    "bend": Bend,
    "gaussian": Gaussian,
    "low_rank_gaussian": LowRankGaussian,
    "noise": Noise,
    "average16": Average16,
    "average": Average,
    "resample": Resample,
    "interpolate": Interpolate,
    "random_latent": RandomLatent,
    "autoencoder": Reconstruction,
    "identity": Identity,
}
Generator = (
    Bend
    | Gaussian
    | LowRankGaussian
    | Noise
    | Average16
    | Average
    | Resample
    | Interpolate
    | RandomLatent
    | Reconstruction
    | Identity
)


def count_members(generator: str, m: int, k: int) -> int:
    """How many members a generator gives that is asked for m, from k checkpoints."""
    return {"average": 1, "identity": min(m, k), "autoencoder": min(m, k)}.get(generator, m)


def check_checkpoints(collector: str, generator: str, m: int, k: int) -> None:
    """Raise SettingsError where a generator of m members cannot do with a collector's k checkpoints."""
    if generator == "average16" and k < MEANS_OF:
        raise SettingsError(f"average16 takes means of {MEANS_OF} checkpoints, and there are k={k}: raise k")
    if collector == "boosting" and generator == "identity" and m < k:
        raise SettingsError(f"members={m} do not match boosting's {k} weights: at least as many are needed")


# the one number of a generator that sets how far its members spread; a leaf of what `fit` returns
KNOBS = {
    "bend": "temperature",
    "gaussian": "scale",
    "low_rank_gaussian": "scale",
    "noise": "scale",
    "random_latent": "scale",
}


GENERATE: dict[str, ModuleType] = {
    "bend": bend,
    "gaussian": gaussian,
    "low_rank_gaussian": low_rank_gaussian,
    "noise": noise,
    "average16": average16,
    "average": average,
    "resample": resample,
    "interpolate": interpolate,
    "random_latent": random_latent,
    "autoencoder": reconstruction,
    "identity": identity,
}
