"""TrivialAugment (Müller & Hutter 2021): one change an image, of a kind and a strength that are drawn evenly.

The kinds and the ranges of their strengths are those of its "wide" search space (its Table 1).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

LEVELS = 31  # strengths of a kind, from none to the strongest
SHEAR, SHIFT, TURN, ENHANCE, BITS = 0.99, 32.0, 135.0, 0.99, 6  # the strongest: pixels a pixel, pixels, degrees, bits
GREY = (0.299, 0.587, 0.114)  # of red, green and blue

Image = UInt8[Array, "h w c"]
Pixels = Float[Array, "h w c"]  # of an image, 0 to 255


def warp(image: Image, rows: Sequence[float | Array], columns: Sequence[float | Array]) -> Image:
    """The image whose pixel (y, x), from its centre, is the nearest one to (a y + b x + c) for (a, b, c) = rows, and
    alike for columns; zeros from outside. Coordinates are those of the upper left corner, in pixels."""
    height, width, _ = image.shape
    y, x = jnp.mgrid[:height, :width] + 0.5
    row, column = (jnp.floor(a * y + b * x + c).astype(jnp.int32) for a, b, c in (rows, columns))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    found = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], found, 0).astype(image.dtype)


def _turned(image: Image, angle: Float[Array, ""]) -> Image:
    height, width, _ = image.shape
    cos, sin, v, h = jnp.cos(angle), jnp.sin(angle), height / 2, width / 2
    return warp(image, (cos, -sin, v - cos * v + sin * h), (sin, cos, h - sin * v - cos * h))


def _grey(x: Pixels) -> Float[Array, "h w 1"]:
    return x @ jnp.array(GREY)[:, None] if x.shape[-1] == 3 else jnp.mean(x, axis=-1, keepdims=True)


def _smooth(x: Pixels) -> Pixels:
    """A 3x3 mean whose centre counts five times; the outermost pixels stay."""
    height, width, _ = x.shape
    near = sum(x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    return x.at[1:-1, 1:-1].set((near + 4 * x[1:-1, 1:-1]) / 13)


def _blended(plain: Callable[[Pixels], Array]) -> Callable[[Image, Float[Array, ""]], Image]:
    """1 + strength of the image, the rest of what `plain` makes of it."""

    def blend(image: Image, strength: Float[Array, ""]) -> Image:
        x = image.astype(jnp.float32)
        other = plain(x)
        return jnp.clip(other + (1 + strength) * (x - other), 0, 255).astype(image.dtype)

    return blend


def _posterized(image: Image, share: Float[Array, ""]) -> Image:
    """Without its lowest bits: none to BITS of them."""
    lost = jnp.round(BITS * share).astype(jnp.uint8)
    return (image >> lost) << lost


def _solarized(image: Image, share: Float[Array, ""]) -> Image:
    """Pixels from a threshold on (255 down to 0) are inverted."""
    return jnp.where(image >= 255 * (1 - share), 255 - image, image).astype(image.dtype)


def _stretched(image: Image, share: Float[Array, ""]) -> Image:
    """Every channel from 0 to 255 (autocontrast); one of a single value stays."""
    x = image.astype(jnp.float32)
    low, high = jnp.min(x, axis=(0, 1), keepdims=True), jnp.max(x, axis=(0, 1), keepdims=True)
    wide = jnp.clip((x - low) * (255 / jnp.maximum(high - low, 1)), 0, 255)
    return jnp.where(high > low, wide, x).astype(image.dtype)


def _equalized(image: Image, share: Float[Array, ""]) -> Image:
    """Every channel's values as evenly spread over 0 to 255 as whole numbers allow, by their ranks."""

    def one(channel: Int[Array, "h w"]) -> Int[Array, "h w"]:
        counts = jnp.bincount(channel.ravel(), length=256)
        step = (counts.sum() - counts[jnp.max(channel)]) // 255
        table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.clip(table, 0, 255)[channel], channel)

    return jax.vmap(one, in_axes=2, out_axes=2)(image.astype(jnp.int32)).astype(image.dtype)


# kind -> (image, strength), where a strength is between -1 and 1 for kinds that have two directions, else 0 to 1
SIGNED: dict[str, Callable[[Image, Float[Array, ""]], Image]] = {
    "shear x": lambda image, s: warp(image, (1.0, 0.0, 0.0), (SHEAR * s, 1.0, 0.0)),
    "shear y": lambda image, s: warp(image, (1.0, SHEAR * s, 0.0), (0.0, 1.0, 0.0)),
    "move x": lambda image, s: warp(image, (1.0, 0.0, 0.0), (0.0, 1.0, SHIFT * s)),
    "move y": lambda image, s: warp(image, (1.0, 0.0, SHIFT * s), (0.0, 1.0, 0.0)),
    "turn": lambda image, s: _turned(image, jnp.deg2rad(TURN) * s),
    "brightness": lambda image, s: _blended(jnp.zeros_like)(image, ENHANCE * s),
    "colour": lambda image, s: _blended(_grey)(image, ENHANCE * s),
    "contrast": lambda image, s: _blended(lambda x: jnp.round(jnp.mean(_grey(x))))(image, ENHANCE * s),
    "sharpness": lambda image, s: _blended(_smooth)(image, ENHANCE * s),
}
UNSIGNED = {
    "none": lambda image, share: image,
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": _stretched,
    "equalize": _equalized,
}


def trivial_augment(key: Key[Array, ""], image: Image) -> Image:
    """The image with one of the changes, at one of the strengths."""
    key_kind, key_level, key_sign = jax.random.split(key, 3)
    share = jax.random.randint(key_level, (), 0, LEVELS) / (LEVELS - 1)
    signed = jnp.where(jax.random.bernoulli(key_sign), share, -share)
    strengths = [signed] * len(SIGNED) + [share] * len(UNSIGNED)
    changes = [*SIGNED.values(), *UNSIGNED.values()]
    kind = jax.random.randint(key_kind, (), 0, len(changes))
    return jax.lax.switch(kind, [lambda x, f=f, s=s: f(x, s) for f, s in zip(changes, strengths, strict=True)], image)
