"""Other data sets, in the size of a run's own images."""

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bend_jax.checks import SettingsError, names
from bend_jax.data import augment, sources
from bend_jax.data.corruptions import to_bytes
from bend_jax.data.images import Images, by_plane, planes_first
from bend_jax.data.sources import Data

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


def load_others(settings: Data, wanted: str, test: Images, *, dry: bool = False) -> dict[str, Any]:
    """The images of the out-of-distribution sets of a comma-separated setting, by name.

    A set's test split, or all of it where it has none, in their size and channels (`like`) and with the pixel noise of
    the settings. Images of several sizes are made squares of the test images' shorter side first (`images.square`).
    dry: as `sources.read` takes it. Raises SettingsError for a set that is not known, not to be had, or the one that
    the run trains on.
    """
    found = {}
    for name in names(wanted):
        if _identity(name) == _identity(settings.name):
            raise SettingsError(f"evaluate.ood: {name} is the data set that the run is about (data.name): name another")
        try:
            own = replace(settings, name=name)
            if sources.kind_of(name)[0] in ("folder", "tfds") and not own.resize:
                own = replace(own, resize=min(test.shape[1:3]))
            images = like(_read(own, dry), test.shape[1:])
        except SettingsError as error:
            raise SettingsError(str(error).replace("data.name", "evaluate.ood")) from None
        generator = np.random.default_rng((settings.split_seed, 1))  # not the noise of the run's own images
        found[name] = augment.add_noise(generator, images, settings.noise)
        if np.array_equal(found[name], test):
            raise SettingsError(f"evaluate.ood: the images of {name} are the run's own test images: name another set")
    return found


def _identity(name: str) -> Path | str:
    """The file or folder that a name means, however it is written; of a prepared set its name without version."""
    kind, rest = sources.kind_of(name)
    return Path(rest).resolve() if kind in ("folder", "npz") else rest.partition(":")[0]


@lru_cache(maxsize=4)  # the seeds of a run and the rows of a comparison ask for the same sets
def _read(settings: Data, dry: bool) -> Images:
    train, test = sources.read(settings, dry=dry)
    return (train if test is None else test).images


def like(images: Images, shape: tuple[int, ...]) -> UInt8[np.ndarray, "n height width channels"]:
    """Images in this height, width and number of channels: resized bilinearly (over boxes where they shrink); grey
    becomes colour by repetition, colour becomes grey by its luminance. Raises SettingsError for other channels."""
    from PIL import Image

    height, width, channels = shape
    own = images.shape[3]
    if own not in (1, channels) and (own, channels) != (3, 1):
        hint = f"; {found}" if (found := planes_first(images)) else ""
        raise SettingsError(
            f"evaluate.ood: images of {own} channels cannot be made ones of {channels}; 1 or 3 can{hint}"
        )
    if own == 3 and channels == 1:
        images = to_bytes(images / 255 @ np.array(LUMINANCE)[:, None])
    if images.shape[1:3] != (height, width):

        def one(plane: Any) -> Any:
            return Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)

        images = by_plane(images, one)
    return images if images.shape[3] == channels else np.repeat(images, channels, axis=3)


def content_digest(others: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of each set's images."""
    return {name: hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest() for name, images in others.items()}
