"""The null `noised`: checkpoints with white noise on them, p-diff's "noise-added" networks."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate.generator import Generator
from bend_jax.subset import Subset, add_noise
from bend_jax.training import SILENT, Callbacks


class Noised(Settings):
    """A null: a checkpoint each, with noise of a share of each tensor's own sd; p-diff's "noise-added" networks."""

    scale: float = setting("sd of the noise over the tensor's; p-diff's are 0.001, 0.05, 0.15", default=0.05, least=0)


class Fitted(flax.struct.PyTreeNode):
    """The checkpoints, what they are of, and the noise's share of each tensor's sd."""

    vectors: Float[Array, "k dim"]
    scale: Float[Array, ""]
    subset: Subset = flax.struct.field(pytree_node=False)


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Noised, *, callbacks: Callbacks = SILENT
) -> Fitted:
    """Nothing is fitted. callbacks.subset says which tensors a vector is made of; without it the vector is one."""
    subset = callbacks.subset or Subset(("params.vector",), (vectors.shape[1:],))
    return Fitted(vectors, jnp.float32(settings.scale), subset)


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "m dim"]:
    """m noised checkpoints (`add_noise`): all of them in random order before one comes again."""
    key_order, key_noise = jax.random.split(key)
    k = len(fitted.vectors)
    chosen = jax.random.permutation(key_order, k)[jnp.arange(m) % k]
    return add_noise(fitted.subset, fitted.vectors[chosen], fitted.scale, key_noise)


GENERATOR = Generator("noised", Noised(), fit, sample)
