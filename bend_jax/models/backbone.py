"""What the backbones share: a stem, stages of named blocks, the last layer."""

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


class SqueezeExcitation(nn.Module):
    """Channels scaled by a gate of their means, of two layers with these names (Hu et al. 2018)."""

    squeezed: int
    dtype: Any
    activation: Callable[..., Any] = nn.relu
    layers: tuple[str, str] = ("se1", "se2")

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        first, second = self.layers
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)
        gate = self.activation(nn.Conv(self.squeezed, (1, 1), dtype=self.dtype, name=first)(gate))
        return x * nn.sigmoid(nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name=second)(gate))


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

    - block(width, stride, dtype, name=...) makes a block.
    - stem: channels of conv1.
    - widths, blocks, strides: one number a stage; strides that are left over are not used.
    - dtype: of the computation; parameters, BN statistics and logits are float32.
    - head: the last layer's name.
    - reduces: the stem for ImageNet: 7x7, stride 2, and max pooling. Else the one for CIFAR: 3x3, stride 1.
    - is_preactivated: BN and ReLU come before the convolutions of a block, so that bn1 follows the last stage.
    """

    block: Callable[..., nn.Module]
    num_classes: int
    stem: int
    widths: Sequence[int]
    blocks: Sequence[int]
    strides: Sequence[int]
    dtype: Any = jnp.float32
    head: str = "fc"
    reduces: bool = False
    is_preactivated: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x, bn1 = images.astype(self.dtype), norm(train, self.dtype, "bn1")
        side, stride = (7, 2) if self.reduces else (3, 1)
        x = conv(self.stem, (side, side), stride, padding=side // 2, dtype=self.dtype, name="conv1")(x)
        x = x if self.is_preactivated else nn.relu(bn1(x))
        if self.reduces:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        stages = zip(self.widths, self.blocks, self.strides, strict=False)
        for i, (width, blocks, stride) in enumerate(stages, start=1):
            x = Stage(self.block, blocks, width, stride, self.dtype, name=f"layer{i}")(x, train)
        x = nn.relu(bn1(x)) if self.is_preactivated else x
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name=self.head)(x).astype(jnp.float32)
