"""EfficientNets (Tan & Le 2019) with the names of timm. Dropout and stochastic depth, of training, are left out."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bend_jax.models.backbone import SqueezeExcitation, conv, norm

KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)  # of the stages
GATE = "conv_reduce", "conv_expand"  # names of a squeeze-excitation's layers
EXPANSION = 6  # of the channels inside a block, in all stages but the first


class InvertedResidual(nn.Module):
    """conv_pw (expansion), conv_dw (depthwise), se, conv_pwl (projection), a BN after each convolution, and a skip
    where the shape stays. Without expansion the first is left out, and the projection is called conv_pw."""

    width: int
    stride: int
    kernel: int
    expansion: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        inside, names = x.shape[-1] * self.expansion, ["bn1", "bn2", "bn3"]
        y = x
        if self.expansion > 1:
            y = conv(inside, (1, 1), dtype=self.dtype, name="conv_pw")(y)
            y = nn.silu(norm(train, self.dtype, names.pop(0))(y))
        y = conv(
            inside,
            (self.kernel, self.kernel),
            self.stride,
            padding=self.kernel // 2,
            feature_group_count=inside,
            dtype=self.dtype,
            name="conv_dw",
        )(y)
        y = nn.silu(norm(train, self.dtype, names.pop(0))(y))
        y = SqueezeExcitation(max(1, x.shape[-1] // 4), self.dtype, nn.silu, GATE, name="se")(y)
        y = conv(self.width, (1, 1), dtype=self.dtype, name="conv_pwl" if self.expansion > 1 else "conv_pw")(y)
        y = norm(train, self.dtype, names.pop(0))(y)
        return x + y if x.shape == y.shape else y


class Stage(nn.Module):
    """Blocks "0", "1", ...; the first one strides."""

    width: int
    blocks: int
    stride: int
    kernel: int
    expansion: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        for i in range(self.blocks):
            more = (self.stride if i == 0 else 1, self.kernel, self.expansion, self.dtype)
            x = InvertedResidual(self.width, *more, name=str(i))(x, train)
        return x


class Stages(nn.Module):
    """Stages "0", "1", ..."""

    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        for i, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            more = (STRIDES[i], KERNELS[i], EXPANSION if i else 1, self.dtype)
            x = Stage(width, blocks, *more, name=str(i))(x, train)
        return x


class EfficientNet(nn.Module):
    """conv_stem, bn1, blocks.<stage>.<block>, conv_head, bn2, classifier; widths, blocks: one number a stage.

    The stem has twice the channels of the first stage, conv_head four times those of the last.
    """

    num_classes: int
    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = images.astype(self.dtype)
        x = conv(2 * self.widths[0], (3, 3), 2, padding=1, dtype=self.dtype, name="conv_stem")(x)
        x = nn.silu(norm(train, self.dtype, "bn1")(x))
        x = Stages(self.widths, self.blocks, self.dtype, name="blocks")(x, train)
        x = conv(4 * self.widths[-1], (1, 1), dtype=self.dtype, name="conv_head")(x)
        x = jnp.mean(nn.silu(norm(train, self.dtype, "bn2")(x)), axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x).astype(jnp.float32)
