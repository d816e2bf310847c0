"""What the backbones share: the CIFAR stem (3x3, stride 1, no max-pool), stages of named blocks, the last layer."""

from collections.abc import Callable, Sequence
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


class Stage(nn.Module):
    """A run of blocks named "0", "1", ...; the first one strides."""

    block: Callable[..., nn.Module]
    blocks: int
    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        for i in range(self.blocks):
            x = self.block(self.width, self.stride if i == 0 else 1, self.dtype, name=str(i))(x, train)
        return x


class ResidualNet(nn.Module):
    """conv1, bn1, layer1 .. layerN, and the last layer: named as BEND's Table 5 names layers.

    block(width, stride, dtype, name=...) makes a block; widths, blocks, strides: one number a stage; stem: channels
    of conv1; dtype: of the computation (parameters, BN statistics and logits are float32); head: the last layer's name.
    """

    block: Callable[..., nn.Module]
    num_classes: int
    stem: int
    widths: Sequence[int]
    blocks: Sequence[int]
    strides: Sequence[int]
    dtype: Any = jnp.float32
    head: str = "fc"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = images.astype(self.dtype)
        x = conv(self.stem, (3, 3), padding=1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(norm(train, self.dtype, "bn1")(x))
        stages = zip(self.widths, self.blocks, self.strides, strict=True)
        for i, (width, blocks, stride) in enumerate(stages, start=1):
            x = Stage(self.block, blocks, width, stride, self.dtype, name=f"layer{i}")(x, train)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name=self.head)(x).astype(jnp.float32)
