"""Augmentation and normalisation of images, on the device."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from bend_jax.data.images import is_blank
from bend_jax.data.sources import Data, Images
from bend_jax.data.trivial_augment import trivial_augment

PADDINGS = {"zeros": "constant", "reflect": "reflect"}  # as NumPy calls them
VIEWS = ("identity", "flip", "left", "right", "up", "down")  # of an image, the last four moved by a pixel


def add_noise(generator: np.random.Generator, images: Images, sd: float) -> Images:
    """Gaussian pixel noise of this sd on [0, 1], clipped and rounded back to 8 bits. Stand-ins stay as they are."""
    if sd == 0 or is_blank(images):
        return images
    noisy = images / 255 + generator.normal(0, sd, images.shape)
    return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


@partial(jax.jit, static_argnames=("mean", "std"))
def normalise(
    images: UInt8[Array, "n h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "n h w c"]:
    """(x / 255 - mean) / std by channel."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(mean)[None, None, None]) / jnp.array(std)[None, None, None]


def rotate(image: UInt8[Array, "h w c"], angle: Float[Array, ""]) -> UInt8[Array, "h w c"]:
    """The image turned about its centre by an angle in radians: nearest pixel, zeros from outside."""
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    y, x = (axis - c for axis, c in zip(jnp.mgrid[:height, :width], centre, strict=True))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = jnp.round(cos * y - sin * x + centre[0]).astype(jnp.int32)
    columns = jnp.round(sin * y + cos * x + centre[1]).astype(jnp.int32)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    turned = image[jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
    return jnp.where(inside[..., None], turned, 0).astype(image.dtype)


def shifted_view(images: UInt8[Array, "n h w c"], view: str) -> UInt8[Array, "n h w c"]:
    """A view of each image for a vote: "identity", "flip", or moved by one pixel, with zeros at the edge."""
    if view == "identity":
        return images
    if view == "flip":
        return images[:, :, ::-1]
    rows, columns = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[view]
    moved = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = images.shape[1:3]
    return moved[:, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width]


def cut_out(image: UInt8[Array, "h w c"], centre: Float[Array, "2"], sides: Any, fill: Any) -> UInt8[Array, "h w c"]:
    """The image with `fill` in a box of these sides (pixels) about a centre (rows, columns); the outside is lost."""
    y, x = jnp.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    inside = (2 * abs(y - centre[0]) <= sides[0]) & (2 * abs(x - centre[1]) <= sides[1])
    return jnp.where(inside[..., None], fill, image).astype(image.dtype)


def erase(key: Key[Array, ""], image: UInt8[Array, "h w c"], share: float) -> UInt8[Array, "h w c"]:
    """Random erasing (Zhong et al. 2020): noise in a box of 2 to 33% of the image and an aspect of 0.3 to 3.3, in
    this share of the images. A side longer than the image's is as long as that."""
    keys = jax.random.split(key, 5)
    size = jnp.array(image.shape[:2])
    area = size[0] * size[1] * jax.random.uniform(keys[0], minval=0.02, maxval=0.33)
    aspect = jnp.exp(jax.random.uniform(keys[1], minval=jnp.log(0.3), maxval=jnp.log(3.3)))
    sides = jnp.minimum(jnp.round(jnp.sqrt(area * jnp.stack([aspect, 1 / aspect]))), size)
    corner = jnp.floor(jax.random.uniform(keys[2], (2,)) * (size - sides + 1))
    noise = jax.random.randint(keys[3], image.shape, 0, 256)
    erased = cut_out(image, corner + sides / 2, sides, noise)
    return jnp.where(jax.random.bernoulli(keys[4], share), erased, image)


def alternates(image: UInt8[Array, "h w c"], index: Any) -> Any:
    """Whether this view of the image is mirrored: every other one, beginning with a half of the images (Jordan 2024).
    Which half is told by whether an image's pixels sum up to an odd number: a mirror image's do, too."""
    return (jnp.sum(image.astype(jnp.uint32)) + jnp.asarray(index).astype(jnp.uint32)) % 2 == 1


@lru_cache
def transforms(settings: Data) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(view, plain): augmented and normalised with one key an image, every view alike, and only normalised. The same
    functions for the same settings (see `setting.network`)."""
    mean = np.round(np.array(settings.mean) * 255).astype(np.uint8)[None, None]

    def one(key: Key[Array, ""], image: Any, index: Any) -> Any:
        key_crop, key_flip, key_turn = jax.random.split(key, 3)
        own = partial(jax.random.fold_in, key)  # keys of what was added later
        mirrored = alternates(image, index) if settings.flip_alternates else jax.random.bernoulli(key_flip)
        if settings.crop:
            pad = settings.crop
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=PADDINGS[settings.crop_padding])
            corner = jax.random.randint(key_crop, (2,), 0, 2 * pad + 1)
            image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
        if settings.flip:
            image = jnp.where(mirrored, image[:, ::-1], image)
        if settings.rotation:
            image = rotate(image, jax.random.uniform(key_turn, minval=-1.0) * jnp.deg2rad(settings.rotation))
        if settings.trivial_augment:
            image = trivial_augment(own(3), image)
        if settings.erasing:
            image = erase(own(4), image, settings.erasing)
        if settings.cutout:
            centre = jax.random.uniform(own(5), (2,)) * jnp.array(image.shape[:2])
            image = cut_out(image, centre, (settings.cutout, settings.cutout), mean)
        return image

    def plain(images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return normalise(images, settings.mean, settings.std)

    def view(keys: Key[Array, " n"], images: UInt8[Array, "n h w c"], index: Any = 0) -> Float[Array, "n h w c"]:
        return plain(jax.vmap(one, in_axes=(0, 0, None))(keys, images, index))

    return view, plain
