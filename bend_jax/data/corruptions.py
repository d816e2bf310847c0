"""Other images than those that a net was trained on: corrupted test images, and other data sets.

The corruptions are ours, after Hendrycks & Dietterich (2019) and their CIFAR-10-C: the same kinds, of which these need
no download, with severities of our own, so that their numbers do not compare with published ones.
"""

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bend_jax.data import augment
from bend_jax.data.images import Images, by_plane

CORRUPTIONS = ("noise", "blur", "contrast", "brightness", "pixelate", "jpeg")  # of test images


SEVERITIES = (1, 2, 3, 4, 5)
BLOCK = 256  # images that are corrupted at once; the noise is drawn by block, so that it depends on no batch


def _noise(images: Images, sd: float, generator: np.random.Generator) -> Images:
    """Gaussian pixel noise, sd on [0, 1]."""
    return augment.add_noise(generator, images, sd)


def _blur(images: Images, sigma: float, generator: np.random.Generator) -> Images:
    """A Gaussian blur, sigma in pixels, edges repeated."""
    from scipy.ndimage import gaussian_filter

    return to_bytes(gaussian_filter(images / 255, (0, sigma, sigma, 0), mode="nearest"))


def _contrast(images: Images, share: float, generator: np.random.Generator) -> Images:
    """Each channel's distance to its mean over the image, times this share."""
    x = images / 255
    mean = x.mean(axis=(1, 2), keepdims=True)
    return to_bytes(mean + share * (x - mean))


def _brightness(images: Images, more: float, generator: np.random.Generator) -> Images:
    """Every channel brighter by this much on [0, 1]."""
    return to_bytes(images / 255 + more)


def _pixelate(images: Images, share: float, generator: np.random.Generator) -> Images:
    """Down to this share of the width and height (means of boxes), and up again by nearest pixels."""
    from PIL import Image

    height, width = images.shape[1:3]
    small = max(1, round(share * width)), max(1, round(share * height))

    def one(plane: Any) -> Any:
        down = Image.fromarray(plane).resize(small, Image.Resampling.BOX)
        return down.resize((width, height), Image.Resampling.NEAREST)

    return by_plane(images, one)


def _jpeg(images: Images, quality: int, generator: np.random.Generator) -> Images:
    """Through JPEG of this quality, as the installed Pillow writes it: colour for three channels, else one by one."""
    from PIL import Image

    def one(picture: Any) -> Any:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return np.stack([np.asarray(one(x)) for x in images]) if images.shape[3] == 3 else by_plane(images, one)


CORRUPT: dict[str, tuple[Callable[..., Images], tuple[float, ...]]] = {  # and its number at each severity
    "noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (_pixelate, (0.9, 0.75, 0.62, 0.5, 0.38)),  # five different sizes of 8 pixels too
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}


def corrupt(images: Images, name: str, severity: int) -> Images:
    """The images with a corruption of CORRUPT at a severity from 1 to 5; the same ones every time."""
    function, numbers = CORRUPT[name]
    blocks = []
    for begin in range(0, len(images), BLOCK):
        generator = np.random.default_rng((zlib.crc32(name.encode()), severity, begin))
        blocks.append(function(images[begin : begin + BLOCK], numbers[severity - 1], generator))
    return np.concatenate(blocks)


def to_bytes(x: np.ndarray) -> Images:
    return np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
