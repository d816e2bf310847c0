"""Vision transformers (Dosovitskiy et al. 2021) as timm's vit_*_patch16_224: names, epsilon and GELU are the same."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HEAD_WIDTH = 64  # channels of one attention head
normal = nn.initializers.truncated_normal(0.02)


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """With the epsilon of transformers and ConvNeXts."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(channels of a head)) v, for the first `queries` tokens."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n tokens c"], queries: int) -> Float[Array, "n queries c"]:
        n, tokens, width = x.shape
        qkv = nn.Dense(3 * width, kernel_init=normal, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, self.heads, width // self.heads), 2, 0)
        y = jax.nn.dot_product_attention(q[:, :queries], k, v)
        return nn.Dense(width, kernel_init=normal, dtype=self.dtype, name="proj")(y.reshape(n, queries, width))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between; four times as wide inside."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        y = nn.Dense(4 * x.shape[-1], kernel_init=normal, dtype=self.dtype, name="fc1")(x)
        y = nn.gelu(y, approximate=False)
        return nn.Dense(x.shape[-1], kernel_init=normal, dtype=self.dtype, name="fc2")(y)


class Block(nn.Module):
    """norm1, attn, norm2, mlp, and a skip around both: of the first `queries` tokens.

    The last block needs the class token alone: what a subset in it or behind it reads of an image is then one token.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n tokens c"], queries: int) -> Float[Array, "n queries c"]:
        y = Attention(self.heads, self.dtype, name="attn")(layer_norm(self.dtype, "norm1")(x), queries)
        x = x[:, :queries] + y
        return x + Mlp(self.dtype, name="mlp")(layer_norm(self.dtype, "norm2")(x))


class Blocks(nn.Module):
    """The blocks "0", "1", ..., and from the last one the class token."""

    blocks: int
    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n tokens c"]) -> Float[Array, "n 1 c"]:
        for i in range(self.blocks):
            queries = 1 if i == self.blocks - 1 else x.shape[1]
            x = Block(self.heads, self.dtype, name=str(i))(x, queries)
        return x


class PatchEmbedding(nn.Module):
    """A linear layer, `proj`, on each patch of patch x patch pixels: one token each."""

    width: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "n h w channels"]) -> Float[Array, "n tokens c"]:
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, side, padding="VALID", dtype=self.dtype, name="proj")(images)
        return x.reshape(x.shape[0], -1, self.width)


class VisionTransformer(nn.Module):
    """cls_token, pos_embed, patch_embed, blocks, norm, head. Heads have 64 channels; narrower nets have one head.

    The image's size is that of the first call: there is one position embedding for each of its patches. Raises
    ValueError for an image whose sides are no multiples of the patch, and for a width that heads cannot share.
    """

    num_classes: int
    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any = jnp.float32
    patch: int = 16

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        (width,), (blocks,), heads = self.widths, self.blocks, max(1, self.widths[0] // HEAD_WIDTH)
        check_patches(images.shape[1], images.shape[2], self.patch)
        if width % heads:
            raise ValueError(f"a width of {width} is no multiple of its {heads} attention heads")
        x = PatchEmbedding(width, self.patch, self.dtype, name="patch_embed")(images.astype(self.dtype))
        cls = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, width))
        position = self.param("pos_embed", normal, (1, 1 + x.shape[1], width))
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, width)).astype(self.dtype), x], axis=1)
        x = x + position.astype(self.dtype)
        x = Blocks(blocks, heads, self.dtype, name="blocks")(x)
        x = layer_norm(self.dtype, "norm")(x[:, 0])
        return nn.Dense(self.num_classes, kernel_init=normal, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def check_patches(height: int, width: int, patch: int) -> None:
    """Raise ValueError for an image that patches do not fill."""
    if min(height, width) < patch or height % patch or width % patch:
        raise ValueError(
            f"images of {height}x{width} pixels are no whole number of patches of {patch}x{patch}: give a smaller "
            "patch that divides both sides, or resize the images"
        )


def resample_positions(embeddings: Float[Array, "1 old c"], tokens: int) -> Float[Array, "1 new c"]:
    """The position embeddings of a square image for another one with `tokens` - 1 patches, also in a square: the class
    token's as it is, the others' by bicubic interpolation with antialiasing, as timm does it.

    Raises ValueError where one of the numbers of patches is no square.
    """
    old, new = math.isqrt(embeddings.shape[1] - 1), math.isqrt(tokens - 1)
    if old**2 != embeddings.shape[1] - 1 or new**2 != tokens - 1:
        raise ValueError(f"{embeddings.shape[1] - 1} and {tokens - 1} patches are not both squares")
    grid = embeddings[:, 1:].reshape(1, old, old, -1)
    grid = jax.image.resize(grid, (1, new, new, grid.shape[-1]), "bicubic")
    return jnp.concatenate([embeddings[:, :1], grid.reshape(1, new**2, -1)], axis=1)
