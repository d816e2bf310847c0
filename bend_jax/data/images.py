"""Labelled images as arrays, and files of images as one array."""

import io
import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from bend_jax.checks import SettingsError
from bend_jax.files import free_memory

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]
LARGEST = 8192  # pixels that a side is resized to at most; Pillow takes squares of 9,459
BLOCK = 512  # files that are decoded at once
# of Pillow's; the others start programs, or read what no training set holds
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


class Split(NamedTuple):
    """Some images and their labels."""

    images: Images
    labels: Labels


def is_blank(images: Images) -> bool:
    """Whether they are one image again and again without its memory: a stand-in for a set that is not there."""
    return images.strides[0] == 0


def blank(n: int, image: UInt8[np.ndarray, "h w c"]) -> Images:
    """n times the same image, in the memory of one."""
    return np.broadcast_to(image, (n, *image.shape))


def taken(images: Images, chosen: Bool[np.ndarray, " n"]) -> UInt8[np.ndarray, "chosen h w c"]:
    """The chosen ones."""
    return blank(int(chosen.sum()), images[0]) if is_blank(images) else images[chosen]


def by_plane(images: Images, one: Callable[[Any], Any]) -> UInt8[np.ndarray, "n height width c"]:
    """Every channel of every image on its own, through Pillow."""
    planes = [[np.asarray(one(image[..., c])) for c in range(image.shape[2])] for image in images]
    return np.asarray(planes).transpose(0, 2, 3, 1)


def decode(file: Path | io.BytesIO, channels: int, side: int) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an image file, upright as its EXIF data say; of several frames the first.

    Three channels: colours, grey repeated. One: luminance (ITU-R BT.601). Alpha is left away, as torchvision's
    ImageFolder does; 16 bits become 8 (v / 257). side: as `square` takes it. Raises what Pillow raises, and ValueError
    for pixels whose range is not known, for more than Image.MAX_IMAGE_PIXELS, and for what is no regular file.
    """
    from PIL import Image, ImageOps

    if isinstance(file, Path) and not file.is_file():  # to read a pipe is to wait
        raise ValueError("it is no regular file")
    with Image.open(file, formats=FORMATS) as opened:
        if math.prod(opened.size) > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise ValueError(f"it has {math.prod(opened.size):,} pixels; {Image.MAX_IMAGE_PIXELS:,} are taken at most")
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # "I;16", "I;16B", and what "I" holds of a 16-bit file
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError("its pixels have more than 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are fractions of no known range")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of a palette with alpha that becomes RGB at once
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(square(image if image.mode == mode else image.convert(mode), side))
    return pixels.reshape(*pixels.shape[:2], channels)


def square(image: Any, side: int) -> Any:
    """A picture of Pillow's whose short side is resized to `side` pixels (bilinear, over boxes where it shrinks) and of
    which the centre is cut out, as torchvision's Resize and CenterCrop do; 0: the picture as it is. Raises
    SettingsError for more than Image.MAX_IMAGE_PIXELS on the way."""
    from PIL import Image

    if not side or image.size == (side, side):
        return image
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise SettingsError(
            f"data.resize={side}: {image.size[0]}x{image.size[1]} pixels become {width}x{height}, and "
            f"{Image.MAX_IMAGE_PIXELS:,} are taken at most; make it smaller"
        )
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + side, top + side))


def resized(name: str, images: Images, side: int) -> UInt8[np.ndarray, "n height width c"]:
    """Every image of a data set of that name as `square` makes it. Raises SettingsError where they do not fit."""
    from PIL import Image

    if not side or images.shape[1:3] == (side, side):
        return images
    if is_blank(images):
        return blank(len(images), resized(name, np.array(images[:1]), side)[0])
    check_memory(name, (len(images), side, side, images.shape[3]))
    return by_plane(images, lambda plane: square(Image.fromarray(plane), side))


def planes_first(images: Images) -> str:
    """What to do with images that seem to be [n, c, h, w], as PyTorch has them; "" for others."""
    _, first, _, last = images.shape
    if last <= 4 or first > 4:
        return ""
    return "these look like [n, c, h, w], and [n, h, w, c] is expected: images.transpose(0, 2, 3, 1)"


class Encoded(NamedTuple):
    """An image file, or its bytes, and what an error calls it."""

    name: str
    file: Path | io.BytesIO


def read_all(
    name: str, number: int, fetch: Callable[[int, int], Sequence[Encoded]], channels: int, side: int
) -> Images:
    """Images of files as one array, decoded in threads. Of several processes each decodes its own blocks of files, and
    they exchange the pixels.

    name: the data set, for errors; number: of all images; fetch(begin, end): these files; channels, side: as `decode`
    takes them. Raises SettingsError where the array does not fit into memory (before anything but the first block is
    decoded), where an image has another size than the first, and for images that cannot be decoded, when all were
    tried.
    """
    import jax

    from bend_jax import devices

    if not number:
        raise SettingsError(f"data.name={name}: there is no image in it")
    if side:
        check_memory(name, (number, side, side, channels))
    images, first, damaged = None, "", list[str]()
    index, count = jax.process_index(), jax.process_count()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, number, BLOCK * count):
            own = [min(begin + i * BLOCK, number) for i in (index, index + 1)]
            block = fetch(*own)
            found = list(pool.map(lambda one: _try(one, channels, side), block))
            whole = [
                (one.name, pixels) for one, pixels in zip(block, found, strict=True) if not isinstance(pixels, str)
            ]
            damaged += [f"{one.name} ({what})" for one, what in zip(block, found, strict=True) if isinstance(what, str)]
            shapes = devices.exchanged(np.array(whole[0][1].shape if whole else (0, 0, 0), np.int32))
            if images is None and shapes.any():
                shape = tuple(int(x) for x in shapes[shapes.any(axis=1)][0])
                check_memory(name, (number, *shape))
                images = np.empty((number, *shape), np.uint8)
                first = next((file for file, pixels in whole if pixels.shape == shape), "in another process")
            _check_sizes(name, images, first, whole)
            if images is None:
                continue
            pixels = np.zeros((min(BLOCK, number - begin), *images.shape[1:]), np.uint8)
            for i, one in enumerate(found):
                if not isinstance(one, str):
                    pixels[i] = one
            for i, part in enumerate(devices.exchanged(pixels)):
                at = begin + i * BLOCK
                images[at : at + BLOCK] = part[: max(min(BLOCK, number - at), 0)]
    lost = int(devices.exchanged(np.array(len(damaged), np.int32)).sum())
    if lost or images is None:
        more = f", and {lost - 1} more of {number}" if lost > 1 else ""
        what = damaged[0] if damaged else "another process names it"
        raise SettingsError(
            f"data.name={name}: an image cannot be decoded: {what}{more}; take them away, or put whole ones there"
        )
    return images


def _check_sizes(name: str, images: Any, first: str, whole: list[tuple[str, Any]]) -> None:
    """Raise SettingsError, in all processes, where an image of a block has another size than the first of all."""
    from bend_jax import devices

    others = [(file, pixels) for file, pixels in whole if pixels.shape != images.shape[1:]]
    if devices.exchanged(np.array(len(others), np.int32)).any():
        file, size = (others[0][0], _size(others[0][1])) if others else ("in another process", "another")
        raise SettingsError(
            f"data.name={name}: the images have different sizes, such as {_size(images[0])} ({first}) and "
            f"{size} ({file}): give one side to all, such as --config.data.resize=64"
        )


def _try(one: Encoded, channels: int, side: int) -> UInt8[np.ndarray, "h w c"] | str:
    """The pixels, or what is wrong with the file."""
    try:
        return decode(one.file, channels, side)
    except MemoryError:
        return "it does not fit into memory: take a smaller data.resize"
    except Exception as error:  # noqa: BLE001  the readers of damaged files raise anything
        return re.sub(r":? ['<].*", "", str(error).split("\n")[0]) or type(error).__name__  # without the name again


def _size(image: UInt8[np.ndarray, "h w c"]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def check_memory(name: str, shape: tuple[int, ...]) -> None:
    """Raise SettingsError where uint8 images of this shape do not fit twice: while they are split, there are two of
    each."""
    needed, free = 2 * math.prod(shape), free_memory()
    if free is not None and needed > free:
        n, height, width, channels = shape
        raise SettingsError(
            f"data.name={name}: {n:,} images of {width}x{height}x{channels} bytes are {needed / 2e9:.3g} GB as one "
            f"array, twice that while they are split, and {free / 1e9:.3g} GB are free: take a smaller data.resize, or "
            "fewer images"
        )
