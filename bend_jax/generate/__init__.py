"""Generators: new vectors out of k checkpoints. One file an algorithm; `GENERATE` is the table of them.

fit(vectors [k, dim], key, settings, *, watch) -> fitted;  sample(fitted, key, m) -> [m, dim]

What `fit` returns is a pytree. For the generators of `settings.KNOBS` it has the knob as a leaf, so that
fitted.replace(scale=jnp.float32(0.5)) is the same fit with other members.
"""

from types import ModuleType

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
