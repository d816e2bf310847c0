"""ConvNeXts (Liu et al. 2022) with the names of timm."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bend_jax.models.vit import Mlp, layer_norm, normal


class Block(nn.Module):
    """A depthwise 7x7 convolution, norm, mlp, a learnt scale of each channel (gamma), and a skip."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        width = x.shape[-1]
        y = nn.Conv(width, (7, 7), padding=3, feature_group_count=width, dtype=self.dtype, name="conv_dw")(x)
        y = Mlp(self.dtype, name="mlp")(layer_norm(self.dtype, "norm")(y))
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (width,))
        return x + y * gamma.astype(self.dtype)[None, None, None]


class Downsample(nn.Module):
    """Norm ("0") and a 2x2 convolution with stride 2 ("1")."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        x = layer_norm(self.dtype, "0")(x)
        return nn.Conv(self.width, (2, 2), (2, 2), padding="VALID", dtype=self.dtype, name="1")(x)


class Stem(nn.Module):
    """A 4x4 convolution with stride 4 ("0") and norm ("1")."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        x = nn.Conv(self.width, (4, 4), (4, 4), padding="VALID", dtype=self.dtype, name="0")(x)
        return layer_norm(self.dtype, "1")(x)


class Blocks(nn.Module):
    """Blocks "0", "1", ..."""

    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        for i in range(self.blocks):
            x = Block(self.dtype, name=str(i))(x)
        return x


class Stage(nn.Module):
    """downsample, but in the first stage, and blocks."""

    width: int
    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], is_first: bool) -> Float[Array, "n h2 w2 c2"]:
        if not is_first:
            x = Downsample(self.width, self.dtype, name="downsample")(x)
        return Blocks(self.blocks, self.dtype, name="blocks")(x)


class Stages(nn.Module):
    """Stages "0", "1", ..."""

    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        for i, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            x = Stage(width, blocks, self.dtype, name=str(i))(x, i == 0)
        return x


class Head(nn.Module):
    """norm and fc."""

    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n c"]) -> Float[Array, "n classes"]:
        x = layer_norm(self.dtype, "norm")(x)
        return nn.Dense(self.num_classes, kernel_init=normal, dtype=self.dtype, name="fc")(x)


class ConvNeXt(nn.Module):
    """stem, stages and head; widths, blocks: one number a stage.

    Raises ValueError for an image of which the last stage would see no pixel.
    """

    num_classes: int
    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        least = 2 ** (1 + len(self.widths))
        if min(images.shape[1:3]) < least:
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels are too small: {len(self.widths)} stages need "
                f"at least {least}x{least}; resize them, or give fewer widths and blocks"
            )
        x = Stem(self.widths[0], self.dtype, name="stem")(images.astype(self.dtype))
        x = Stages(self.widths, self.blocks, self.dtype, name="stages")(x)
        return Head(self.num_classes, self.dtype, name="head")(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)
