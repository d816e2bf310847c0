"""Networks for fast training on small images, after airbench94 and airbench96 (Jordan 2024, arXiv 2404.00498)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PATCH = 2  # pixels a side of the first layer's patches
EPSILON = 5e-4  # added to the patches' variances, so that the weakest directions are not blown up
SCALE = 1 / 9  # of the logits


def _identity(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """The first output channels copy the input's channels (Zagoruyko & Komodakis 2017); the others are drawn as
    PyTorch's convolutions are: uniform, within 1 / sqrt(fan in)."""
    height, width, channels, filters = shape
    bound = (height * width * channels) ** -0.5
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    copied = min(channels, filters)
    kernel = kernel.at[..., :copied].set(0)
    return kernel.at[height // 2, width // 2, jnp.arange(copied), jnp.arange(copied)].set(1)


class Group(nn.Module):
    """3x3 convolutions, each with BN without scale and GELU; max pooling follows the first one. From three on, the
    last one's BN is added to the first one's output."""

    width: int
    convolutions: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        skip = x
        for i in range(1, self.convolutions + 1):
            x = nn.Conv(self.width, (3, 3), use_bias=False, kernel_init=_identity, dtype=self.dtype, name=f"conv{i}")(x)
            if i == 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.BatchNorm(not train, momentum=0.6, use_scale=False, dtype=self.dtype, name=f"bn{i}")(x)
            if i == self.convolutions > 2:
                x = x + skip
            x = nn.gelu(x)
            skip = x if i == 1 else skip
        return x


class Airbench(nn.Module):
    """A layer for 2x2 patches, groups of convolutions, max pooling over what is left of the image, the last layer.

    The first layer's filters (`whiten`) are drawn at random here; `whitened` puts the whitening ones of the training
    images in their place. widths, blocks: channels and convolutions of each group.
    """

    num_classes: int
    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        least = PATCH ** len(self.widths) + 1
        if min(images.shape[1:3]) < least:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]} are too small: {least} x {least} at least"
            )
        x = images.astype(self.dtype)
        filters = 2 * PATCH**2 * x.shape[-1]
        x = nn.gelu(nn.Conv(filters, (PATCH, PATCH), padding="VALID", dtype=self.dtype, name="whiten")(x))
        for i, (width, convolutions) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            x = Group(width, convolutions, self.dtype, name=f"layer{i}")(x, train)
        x = jnp.max(x, axis=(1, 2))
        x = nn.Dense(self.num_classes, use_bias=False, dtype=self.dtype, name="fc")(x)
        return x.astype(jnp.float32) * SCALE


def whitening(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "2 2 c filters"]:
    """Filters whose outputs on the images' 2x2 patches are uncorrelated and of variance about 1: the eigenvectors of
    the patches' second moments over the roots of their eigenvalues, and then their negatives."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(images), (PATCH, PATCH), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, PATCH * PATCH * images.shape[-1])
    values, vectors = np.linalg.eigh(patches.T.astype(np.float64) @ patches / len(patches))
    filters = (vectors / np.sqrt(values + EPSILON)).astype(np.float32)
    return np.concatenate([filters, -filters], axis=1).reshape(PATCH, PATCH, images.shape[-1], -1)


def whitened(init: Callable[[Any], Any], images: Float[np.ndarray, "n h w c"]) -> Callable[[Any], Any]:
    """The initialisation with `whitening` filters of these images (normalised ones, for training) in the first layer,
    whose biases are 0."""
    return partial(_whitened, init, whitening(images))


def _whitened(init: Callable[[Any], Any], filters: Any, key: Any) -> Any:
    variables = init(key)
    first = {**variables["params"]["whiten"], "kernel": jnp.asarray(filters)}
    return {**variables, "params": {**variables["params"], "whiten": first}}
