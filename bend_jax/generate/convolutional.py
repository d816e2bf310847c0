"""The published coder (p-diff's release, `small` and `medium`): 1-D convolutions over the vector.

Lengths, channels and paddings are the release's. Its InstanceNorm takes each vector's own mean and scale away: it is a
switch, and with it parameters start as PyTorch starts them, as in the release; without it kernels start with He's
variance, and the last one as zero.

A latent is one channel after the other, each over all positions: the order that the release's denoiser convolves over.

Every layer is one matrix product: a stride of the window's width leaves no window overlapping another, so that folding
and unfolding are reshapes, and a window of stride one is gathered before the product or added up after it, on the side
that has fewer channels. XLA's convolutions of one dimension and their gradients are slow on a CPU.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LAYERS = 4
SMALL = ((2, 2, 2, 2), (2, 64, 64, 8))  # channels of encoder and decoder for fold 3
MEDIUM = ((4, 4, 4, 4), (4, 256, 256, 8))  # for fold 5, and for any other


HE = nn.initializers.he_normal()
ZERO = nn.initializers.zeros
EPSILON = 1e-5  # of InstanceNorm's variance
NORMED = 2  # positions of a latent at least, where there is InstanceNorm: it leaves nothing of one


def instance_norm(x: Float[Array, "n length channels"]) -> Float[Array, "n length channels"]:
    """Each row's channels with mean 0 and variance 1 over the length (Ulyanov et al. 2016), without parameters."""
    centred = x - jnp.mean(x, axis=1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True) + EPSILON)


def uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in): how PyTorch starts kernels and biases of convolutions."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def channels(fold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the encoder's layers (their outputs) and of the decoder's (their inputs)."""
    return SMALL if fold == 3 else MEDIUM


def positions(length: int, fold: int) -> int:
    """The length of the latent of a padded vector: a layer makes (length + 3 - fold) // fold of it."""
    for _ in range(LAYERS):
        length = max(0, (length + 3 - fold) // fold)
    return length


def padded(dim: int, fold: int, least: int = 1) -> int:
    """The least multiple of fold**4 whose latents see all dim numbers, the last ones too, in `least` positions or more.

    Latent p sees the 2 fold**4 - 1 numbers from p fold**4 - (1 + fold + fold**2 + fold**3) on.
    """
    block = fold**LAYERS
    length = -(-dim // block) * block
    while (
        positions(length, fold) * block + block - 1 - (block - 1) // (fold - 1) < dim or positions(length, fold) < least
    ):
        length += block
    return length


def latent_size(dim: int, fold: int, with_norm: bool) -> int:
    """Numbers in the latent of a vector of dim numbers."""
    return positions(padded(dim, fold, NORMED if with_norm else 1), fold) * channels(fold)[0][-1]


class Conv(nn.Module):
    """A convolution of stride one with zeros on both sides: length + 2 padding - window + 1 positions."""

    out: int
    window: int
    padding: int
    kernel_init: nn.initializers.Initializer | None = None  # None: as PyTorch, the bias too

    @nn.compact
    def __call__(self, x: Float[Array, "n length before"]) -> Float[Array, "n kept out"]:
        before = x.shape[2]
        as_torch = uniform(self.window * before)
        kernel = self.param("kernel", self.kernel_init or as_torch, (self.window, before, self.out))
        bias = self.param("bias", ZERO if self.kernel_init else as_torch, (self.out,))
        kept = x.shape[1] + 2 * self.padding - self.window + 1
        x = jnp.pad(x, ((0, 0), (self.padding, self.padding), (0, 0)))
        if before <= self.out:
            taps = jnp.concatenate([x[:, j : j + kept] for j in range(self.window)], axis=-1)
            return taps @ kernel.reshape(-1, self.out) + bias[None, None]
        taps = x @ kernel.transpose(1, 0, 2).reshape(before, -1)
        parts = jnp.split(taps, self.window, axis=-1)
        return sum((part[:, j : j + kept] for j, part in enumerate(parts)), start=bias[None, None])


class StridedConv(nn.Module):
    """A convolution whose stride is its window: length // window positions."""

    out: int
    window: int
    kernel_init: nn.initializers.Initializer | None = None  # None: as PyTorch, the bias too

    @nn.compact
    def __call__(self, x: Float[Array, "n length before"]) -> Float[Array, "n folded out"]:
        n, length, before = x.shape
        as_torch = uniform(self.window * before)
        kernel = self.param("kernel", self.kernel_init or as_torch, (self.window, before, self.out))
        bias = self.param("bias", ZERO if self.kernel_init else as_torch, (self.out,))
        folded = length // self.window
        x = x[:, : folded * self.window].reshape(n, folded, self.window * before)
        return x @ kernel.reshape(-1, self.out) + bias[None, None]


class TransposedConv(nn.Module):
    """A transposed convolution whose stride is its window: length * window positions."""

    out: int
    window: int
    kernel_init: nn.initializers.Initializer | None = None  # None: as PyTorch, the bias too

    @nn.compact
    def __call__(self, x: Float[Array, "n length before"]) -> Float[Array, "n unfolded out"]:
        n, length, before = x.shape
        as_torch = uniform(self.window * self.out)  # of a transposed one PyTorch counts the outputs
        kernel = self.param("kernel", self.kernel_init or as_torch, (self.window, before, self.out))
        bias = self.param("bias", ZERO if self.kernel_init else as_torch, (self.out,))
        taps = x @ kernel[::-1].transpose(1, 0, 2).reshape(before, -1)  # in Flax's order
        return taps.reshape(n, length * self.window, self.out) + bias[None, None]


class Encoder(nn.Module):
    """Each layer: a convolution, then one of stride `fold`; LeakyReLU between, tanh at the end; InstanceNorm, where it
    is on, before every convolution."""

    fold: int
    instance_norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n dim"]) -> Float[Array, "n latent"]:
        n, dim = x.shape
        outputs, _ = channels(self.fold)
        norm, init = (instance_norm, None) if self.instance_norm else (_same, HE)
        length = padded(dim, self.fold, NORMED if self.instance_norm else 1)
        h = jnp.pad(x, ((0, 0), (0, length - dim)))[:, :, None]
        for i, after in enumerate(outputs):
            before = outputs[max(i - 1, 0)]
            h = nn.leaky_relu(Conv(before, self.fold, 1, init, name=f"layer{i + 1}_keep")(norm(h)))
            h = StridedConv(after, self.fold, init, name=f"layer{i + 1}_fold")(norm(h))
            h = nn.leaky_relu(h) if i < LAYERS - 1 else jnp.tanh(h)
        return jnp.reshape(jnp.swapaxes(h, 1, 2), (n, -1))


class Decoder(nn.Module):
    """Each layer: a transposed convolution of stride `fold`, then a convolution; LeakyReLU before both, and then
    InstanceNorm, where it is on.

    The paddings (fold - 1, in the last layer fold) bring it back to the padded length at least; the rest is cut off.
    Without InstanceNorm the last kernel is zero at the start: training starts from the vectors' mean [ours].
    """

    fold: int
    dim: int
    instance_norm: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "n latent"]) -> Float[Array, "n dim"]:
        encoder, inputs = channels(self.fold)
        norm = instance_norm if self.instance_norm else _same
        one_tap = nn.initializers.variance_scaling(2.0 * self.fold, "fan_in", "normal")  # an output sees one, not all
        unfold = None if self.instance_norm else one_tap
        h = jnp.swapaxes(jnp.reshape(z, (z.shape[0], encoder[-1], -1)), 1, 2)
        for i, before in enumerate(inputs):
            last = i == LAYERS - 1
            after = 1 if last else inputs[i + 1]
            init = None if self.instance_norm else ZERO if last else HE
            name = f"layer{i + 1}"
            h = norm(nn.leaky_relu(h))
            h = norm(nn.leaky_relu(TransposedConv(before, self.fold, unfold, name=f"{name}_unfold")(h)))
            padding = self.fold if last else self.fold - 1
            h = Conv(after, self.fold, padding, init, name=f"{name}_keep")(h)
        return h[:, : self.dim, 0]


def _same(x: Float[Array, "n length channels"]) -> Float[Array, "n length channels"]:
    return x
