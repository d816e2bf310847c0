"""A generator of your own in one file: members are random checkpoints with Gaussian noise of a chosen scale.

In Python: bend_jax.fit(..., generate=replace(GENERATOR, settings=Jitter(scale=0.5)))
In a run:  python launch.py --config=configs/digits.py --config.generate.name=examples.jitter
"""

import jax
import jax.numpy as jnp

import bend_jax


class Jitter(bend_jax.Settings):
    """Checkpoints with noise."""

    scale: float = bend_jax.setting("sd of the noise, over that of each coordinate", default=0.1, least=0)


def fit(vectors, key, settings, *, callbacks=None):
    """What `sample` needs: the checkpoints [k, dim] and the noise's sd [dim]."""
    return {"vectors": vectors, "sd": settings.scale * jnp.std(vectors, axis=0)}


def sample(fitted, key, m):
    """m new vectors [m, dim]."""
    k, dim = fitted["vectors"].shape
    key_row, key_noise = jax.random.split(key)
    rows = fitted["vectors"][jax.random.randint(key_row, (m,), 0, k)]
    return rows + fitted["sd"][None] * jax.random.normal(key_noise, (m, dim))


GENERATOR = bend_jax.Generator("jitter", Jitter(), fit, sample)
