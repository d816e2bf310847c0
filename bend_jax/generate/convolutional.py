"""The published coder (p-diff's release, `small` and `medium`): 1-D convolutions over the vector.

Lengths, channels and paddings are the release's; its InstanceNorm is not (it takes each vector's own mean and scale
away), so kernels start with He's variance instead.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

LAYERS = 4
SMALL = ((2, 2, 2, 2), (2, 64, 64, 8))  # channels of encoder and decoder for fold 3
MEDIUM = ((4, 4, 4, 4), (4, 256, 256, 8))  # for fold 5, and for any other

HE = nn.initializers.he_normal()


def channels(fold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the encoder's layers (their outputs) and of the decoder's (their inputs)."""
    return SMALL if fold == 3 else MEDIUM


def positions(length: int, fold: int) -> int:
    """The length of the latent of a padded vector: a layer makes (length + 3 - fold) // fold of it."""
    for _ in range(LAYERS):
        length = max(0, (length + 3 - fold) // fold)
    return length


def padded(dim: int, fold: int) -> int:
    """The least multiple of fold**4 whose latents see all dim numbers, the last ones too.

    Latent p sees the 2 fold**4 - 1 numbers from p fold**4 - (1 + fold + fold**2 + fold**3) on.
    """
    block = fold**LAYERS
    length = -(-dim // block) * block
    while positions(length, fold) * block + block - 1 - (block - 1) // (fold - 1) < dim or not positions(length, fold):
        length += block
    return length


class Encoder(nn.Module):
    """Each layer: a convolution, then one of stride `fold`; LeakyReLU between, tanh at the end."""

    fold: int

    @nn.compact
    def __call__(self, x: Float[Array, "n dim"]) -> Float[Array, "n latent"]:
        n, dim = x.shape
        outputs, _ = channels(self.fold)
        window = (self.fold,)
        h = jnp.pad(x, ((0, 0), (0, padded(dim, self.fold) - dim)))[:, :, None]
        for i, after in enumerate(outputs):
            before = outputs[max(i - 1, 0)]
            h = nn.leaky_relu(nn.Conv(before, window, padding=1, kernel_init=HE, name=f"layer{i + 1}_keep")(h))
            h = nn.Conv(after, window, self.fold, "VALID", kernel_init=HE, name=f"layer{i + 1}_fold")(h)
            h = nn.leaky_relu(h) if i < LAYERS - 1 else jnp.tanh(h)
        return jnp.reshape(h, (n, -1))


class Decoder(nn.Module):
    """Each layer: a transposed convolution of stride `fold`, then a convolution; LeakyReLU before both.

    The paddings (fold - 1, in the last layer fold) bring it back to the padded length at least; the rest is cut off.
    The last kernel is zero at the start: training starts from the vectors' mean [ours].
    """

    fold: int
    dim: int

    @nn.compact
    def __call__(self, z: Float[Array, "n latent"]) -> Float[Array, "n dim"]:
        encoder, inputs = channels(self.fold)
        window = (self.fold,)
        unfolding = nn.initializers.variance_scaling(2.0 * self.fold, "fan_in", "normal")  # one tap an output, not fold
        h = jnp.reshape(z, (z.shape[0], -1, encoder[-1]))
        for i, before in enumerate(inputs):
            last = i == LAYERS - 1
            after = 1 if last else inputs[i + 1]
            init = nn.initializers.zeros if last else HE
            name = f"layer{i + 1}"
            h = nn.leaky_relu(h)
            h = nn.ConvTranspose(before, window, window, "VALID", kernel_init=unfolding, name=f"{name}_unfold")(h)
            padding = self.fold if last else self.fold - 1
            h = nn.leaky_relu(h)
            h = nn.Conv(after, window, padding=padding, kernel_init=init, name=f"{name}_keep")(h)
        return h[:, : self.dim, 0]
