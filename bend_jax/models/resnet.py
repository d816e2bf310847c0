"""ResNets with the CIFAR stem (He et al. 2016; 3x3 stride 1, no max-pool), named as BEND's Table 5 names layers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"))


def norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    """Batch normalisation as PyTorch's default: running average over about ten batches."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


class Shortcut(nn.Module):
    """The 1x1 projection of a block whose shape changes: `shortcut.0` (convolution), `shortcut.1` (BN)."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        x = conv(self.width, (1, 1), self.stride, dtype=self.dtype, name="0")(x)
        return norm(train, self.dtype, "1")(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip (ResNet-18, -34)."""

    width: int
    stride: int
    dtype: Any
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        out = self.width * self.expansion
        y = conv(self.width, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(train, self.dtype, "bn1")(y))
        y = conv(self.width, (3, 3), padding=1, dtype=self.dtype, name="conv2")(y)
        y = norm(train, self.dtype, "bn2")(y)
        if self.stride != 1 or x.shape[-1] != out:
            x = Shortcut(out, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a skip; the output is four times as wide (ResNet-50)."""

    width: int
    stride: int
    dtype: Any
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        out = self.width * self.expansion
        y = conv(self.width, (1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(train, self.dtype, "bn1")(y))
        y = conv(self.width, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(norm(train, self.dtype, "bn2")(y))
        y = conv(out, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = norm(train, self.dtype, "bn3")(y)
        if self.stride != 1 or x.shape[-1] != out:
            x = Shortcut(out, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """A run of blocks named "0", "1", ...; the first one strides."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: int
    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        for i in range(self.blocks):
            x = self.block(self.width, self.stride if i == 0 else 1, self.dtype, name=str(i))(x, train)
        return x


class ResNet(nn.Module):
    """conv1, bn1, layer1 .. layerN, fc. All stages but the first halve the image.

    widths and blocks: one number a stage; dtype: of the computation (parameters and BN statistics are float32).
    """

    block: type[BasicBlock] | type[Bottleneck]
    num_classes: int
    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = images.astype(self.dtype)
        x = conv(self.widths[0], (3, 3), padding=1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(norm(train, self.dtype, "bn1")(x))
        for i, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            x = Stage(self.block, blocks, width, 1 if i == 0 else 2, self.dtype, name=f"layer{i + 1}")(x, train)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
