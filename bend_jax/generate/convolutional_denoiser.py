"""The published denoiser (p-diff's release): 1-D convolutions over the latent, which is one channel of its length."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bend_jax.generate.convolutional import Conv, instance_norm

CHANNELS = (64, 128, 256, 512)
WINDOW = 3


class ConvolutionalDenoiser(nn.Module):
    """Eight blocks of two convolutions, InstanceNorm and LeakyReLU before each of them (the very first has no
    LeakyReLU): 1-64-128-256-512 and back to 1.

    A learnt table [timesteps, latent] gives every timestep a row, which is added to each block's input. The outputs of
    the third, second and first block are added to those of the fifth, sixth and seventh. 2,350,273 weights, and
    timesteps * latent in the table.
    """

    timesteps: int

    @nn.compact
    def __call__(self, x: Float[Array, "n latent"], t: Int[Array, " n"]) -> Float[Array, "n latent"]:
        conv = partial(Conv, window=WINDOW, padding=1)
        table = self.param("time", nn.initializers.normal(1.0), (self.timesteps, x.shape[1]))
        time = table[t][:, :, None]
        h, skips = x[:, :, None], []
        for i, width in enumerate(CHANNELS):
            h = instance_norm(nn.leaky_relu(h + time) if i else h + time)
            h = conv(width, name=f"down{i + 1}_first")(h)
            h = conv(width, name=f"down{i + 1}_second")(instance_norm(nn.leaky_relu(h)))
            skips.append(h)
        for i, width in enumerate((*CHANNELS[2::-1], CHANNELS[0])):
            is_last = i == len(CHANNELS) - 1
            h = conv(width, name=f"up{i + 1}_first")(instance_norm(nn.leaky_relu(h + time)))
            h = conv(1 if is_last else width, name=f"up{i + 1}_second")(instance_norm(nn.leaky_relu(h)))
            h = h if is_last else h + skips[2 - i]
        return h[:, :, 0]


def multiplications(latent: int) -> int:
    """Of one latent's way through the net: every weight of a kernel once a position."""
    shapes = jax.eval_shape(
        ConvolutionalDenoiser(1).init, jax.random.key(0), jnp.zeros((1, latent)), jnp.zeros(1, jnp.int32)
    )
    return latent * sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim == 3)
