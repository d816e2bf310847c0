"""Data sets as arrays (uint8 NHWC images, int32 labels), split, with augmentation on the device."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from bend_jax.config import Data, SettingsError, did_you_mean

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]
NAMES = ("digits",)  # and "npz:PATH"


class Split(NamedTuple):
    """Some images and their labels."""

    images: Images
    labels: Labels


class Dataset(NamedTuple):
    """The three splits. Only the evaluate stage reads `test`."""

    train: Split
    validation: Split
    test: Split
    num_classes: int


def check(settings: Data) -> None:
    """Raise SettingsError where the named set is not there, without reading it."""
    if settings.name.startswith("npz:"):
        path = Path(settings.name[4:])
        if not path.is_file():
            raise SettingsError(
                f"data.name: there is no file {path}; an .npz with x_train y_train x_test y_test is expected"
            )
    elif settings.name not in NAMES:
        known = ", ".join((*NAMES, "npz:PATH"))
        raise SettingsError(
            f"data.name: unknown data set {settings.name!r}{did_you_mean(settings.name, NAMES)}; there are {known}"
        )


def load(settings: Data) -> Dataset:
    """Read, add the noise of the settings, and split. Raises SettingsError where the set is missing or malformed."""
    check(settings)
    train, test = _npz(Path(settings.name[4:])) if settings.name.startswith("npz:") else _digits(settings)
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    if train.images.shape[-1] != len(settings.mean):
        raise SettingsError(
            f"data.mean has {len(settings.mean)} numbers; the images have {train.images.shape[-1]} channels"
        )
    generator = np.random.default_rng(settings.split_seed)
    train = train._replace(images=_add_noise(generator, train.images, settings.noise))
    test = test._replace(images=_add_noise(generator, test.images, settings.noise))
    count = min(settings.validation_most, round(settings.validation * len(train.labels)))
    train, validation = _stratified(generator, train, count)
    return Dataset(train, validation, test, num_classes)


def _digits(settings: Data) -> tuple[Split, Split]:
    """scikit-learn's 1797 handwritten 8x8 digits; they come without a test split: half, stratified, is held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SettingsError("data.name=digits needs scikit-learn: pip install scikit-learn") from None
    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    everything = Split(images, bunch.target.astype(np.int32))
    generator = np.random.default_rng(settings.split_seed)
    return _stratified(generator, everything, round(len(images) / 2))


def _npz(path: Path) -> tuple[Split, Split]:
    """A user's own images: x_train, y_train, x_test, y_test."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (KeyError, ValueError, OSError) as error:
        raise SettingsError(f"data.name: cannot read x_train y_train x_test y_test from {path}: {error}") from None
    splits = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise SettingsError(
                f"data.name: {path} needs uint8 images [n, h, w, c] and labels [n]; x_{part} is {images.dtype}"
                f"{list(images.shape)}, y_{part} is {list(labels.shape)}"
            )
        splits.append(Split(images, labels.astype(np.int32)))
    return splits[0], splits[1]


def _add_noise(generator: np.random.Generator, images: Images, sd: float) -> Images:
    """Gaussian pixel noise of this sd on [0, 1], clipped and rounded back to 8 bits."""
    if sd == 0:
        return images
    noisy = images / 255 + generator.normal(0, sd, images.shape)
    return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def _stratified(generator: np.random.Generator, split: Split, count: int) -> tuple[Split, Split]:
    """(the rest, `count` images) with the classes in proportion: each class's share, rounded by largest remainder."""
    classes, sizes = np.unique(split.labels, return_counts=True)
    exact = count * sizes / len(split.labels)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: count - take.sum()]] += 1
    held = np.zeros(len(split.labels), bool)
    for label, number in zip(classes, take, strict=True):
        members = np.flatnonzero(split.labels == label)
        held[generator.permutation(members)[:number]] = True
    return Split(split.images[~held], split.labels[~held]), Split(split.images[held], split.labels[held])


def content_digest(dataset: Dataset) -> str:
    """SHA-256 of every array of the three splits."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test):
        for array in split:
            digest.update(str((array.dtype, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def normalise(
    images: UInt8[Array, "n h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "n h w c"]:
    """(x / 255 - mean) / std by channel."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(mean)[None, None, None]) / jnp.array(std)[None, None, None]


def transforms(settings: Data) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(view, plain): augmented and normalised with one key an image, and only normalised."""

    def one(key: Key[Array, ""], image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
        key_crop, key_flip = jax.random.split(key)
        if settings.crop:
            pad = settings.crop
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            corner = jax.random.randint(key_crop, (2,), 0, 2 * pad + 1)
            image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
        if settings.flip:
            image = jnp.where(jax.random.bernoulli(key_flip), image[:, ::-1], image)
        return image

    def plain(images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return normalise(images, settings.mean, settings.std)

    def view(keys: Key[Array, " n"], images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return plain(jax.vmap(one)(keys, images))

    return view, plain
