"""The null `noised`: checkpoints with white noise on them, p-diff's "noise-added" networks."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate.generator import Generator
from bend_jax.training import SILENT, Callbacks


class Noised(Settings):
    """A null: a checkpoint each, with noise of a share of each tensor's own sd; p-diff's "noise-added" networks."""

    scale: float = setting("sd of the noise over the tensor's; p-diff's are 0.001, 0.05, 0.15", default=0.05, least=0)


class Fitted(flax.struct.PyTreeNode):
    """The checkpoints, the sd of each of their tensors, the tensor of each coordinate, and the noise's share of it."""

    vectors: Float[Array, "k dim"]
    sd: Float[Array, "k tensors"]
    tensor: Int[Array, " dim"]
    scale: Float[Array, ""]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Noised, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """The sd (over n - 1) of the numbers of every tensor of every checkpoint; 0 for a tensor of one number.

    callbacks.lengths says where a vector's tensors begin; without it the vector is one tensor.
    """
    lengths = np.asarray(callbacks.lengths or (vectors.shape[1],))
    parts = jnp.split(vectors, np.cumsum(lengths)[:-1], axis=1)
    sd = [jnp.std(part, axis=1, ddof=1) if part.shape[1] > 1 else jnp.zeros(len(part)) for part in parts]
    tensor = jnp.asarray(np.repeat(np.arange(len(lengths)), lengths), jnp.int32)
    return Fitted(vectors, jnp.stack(sd, axis=1), tensor, jnp.float32(settings.scale))


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m noised checkpoints: all of them in random order before one comes again."""
    key_order, key_noise = jax.random.split(key)
    k, dim = fitted.vectors.shape
    chosen = jax.random.permutation(key_order, k)[jnp.arange(m) % k]
    sd = fitted.scale * fitted.sd[chosen][:, fitted.tensor]
    return fitted.vectors[chosen] + sd * jax.random.normal(key_noise, (m, dim))


GENERATOR = Generator("noised", Noised(), fit, sample)
