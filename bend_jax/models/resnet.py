"""ResNet blocks (He et al. 2016) and those of Wide ResNets (Zagoruyko & Komodakis 2016)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bend_jax.models.backbone import Shortcut, conv, norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip (ResNet-18, -34)."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        y = conv(self.width, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(train, self.dtype, "bn1")(y))
        y = conv(self.width, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
        y = norm(train, self.dtype, "bn2")(y)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = Shortcut(self.width, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions and a skip without parameters: option A of He et al. 2016, section 4.2.

    Where the shape changes, the skip takes every `stride`-th pixel and pads the channels with zeros, half of them on
    either side (an odd one after the others).
    """

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        y = conv(self.width, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(train, self.dtype, "bn1")(y))
        y = conv(self.width, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
        y = norm(train, self.dtype, "bn2")(y)
        more = self.width - x.shape[-1]
        if self.stride != 1 or more:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a skip; the output is four times as wide (ResNet-50)."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        y = conv(self.width, (1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(train, self.dtype, "bn1")(y))
        y = conv(self.width, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(norm(train, self.dtype, "bn2")(y))
        y = conv(4 * self.width, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = norm(train, self.dtype, "bn3")(y)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = Shortcut(4 * self.width, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class PreactivatedBlock(nn.Module):
    """BN, ReLU and a 3x3 convolution, twice, and a skip (Wide ResNet). Where the width changes, the skip is a 1x1
    convolution, `shortcut`, of the input after the first BN and ReLU."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        y = nn.relu(norm(train, self.dtype, "bn1")(x))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = conv(self.width, (1, 1), self.stride, dtype=self.dtype, name="shortcut")(y)
        y = conv(self.width, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(norm(train, self.dtype, "bn2")(y))
        return x + conv(self.width, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
