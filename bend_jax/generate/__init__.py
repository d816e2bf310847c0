"""Generators: new vectors out of k checkpoints. One file an algorithm; `GENERATORS` is the table of their records."""

from bend_jax.generate import (
    average,
    average16,
    bend,
    gaussian,
    identity,
    interpolate,
    low_rank_gaussian,
    noise,
    noised,
    random_latent,
    reconstruction,
    resample,
)
from bend_jax.generate.generator import Generator

ALGORITHMS = (
    *(bend, gaussian, low_rank_gaussian, noise, noised, average16, average),
    *(resample, interpolate, random_latent, reconstruction, identity),
)
GENERATORS: dict[str, Generator] = {module.GENERATOR.name: module.GENERATOR for module in ALGORITHMS}
