"""The three splits of a data set, and augmentation on the device."""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8

from bend_jax import sources
from bend_jax.config import Data, SettingsError
from bend_jax.sources import Images, Labels, Split


class Dataset(NamedTuple):
    """The three splits. Only the evaluate stage reads `test`. unseen: training images that are not in `train`, on which
    the collector alone is fitted; None where it is fitted on `train`."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    unseen: Split | None = None

    @property
    def collected(self) -> Split:
        """What the collector is fitted on."""
        return self.train if self.unseen is None else self.unseen

    @property
    def training_images(self) -> int:
        """Of all training images: an epoch is a pass over so many."""
        return len(self.train.labels) + (0 if self.unseen is None else len(self.unseen.labels))


def load(settings: Data) -> Dataset:
    """Read, add the noise of the settings, and split. Raises SettingsError where the set is missing or malformed."""
    train, test = sources.read(settings)
    _check(settings, train)
    generator = np.random.default_rng(settings.split_seed)
    if test is None:
        train, test = _stratified(generator, train, round(len(train.labels) / 2))
    _check(settings, test)
    train = _long_tailed(generator, train, settings.imbalance)
    train = train._replace(images=add_noise(generator, train.images, settings.noise))
    test = test._replace(images=add_noise(generator, test.images, settings.noise))
    count = min(settings.validation_most, round(settings.validation * len(train.labels)))
    train, validation = _stratified(generator, train, count)
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    unseen = None
    if settings.unseen:
        train, unseen = _stratified(generator, train, round(settings.unseen * len(train.labels)))
    needed = {"training": train, "validation": validation, "test": test}
    if settings.imbalance > 1:
        del needed["validation"]  # a tenth of the smallest classes is none
    for name, split in needed.items():
        _check_classes(settings, name, split, num_classes)
    return Dataset(train, validation, test, num_classes, unseen)


def _check(settings: Data, split: Split) -> None:
    images = split.images
    if images.shape[-1] != len(settings.mean):
        raise SettingsError(
            f"data.mean has {len(settings.mean)} numbers; the images of {settings.name} are {list(images.shape)}: "
            f"{images.shape[-1]} channels need as many"
        )


def _check_classes(settings: Data, name: str, split: Split, num_classes: int) -> None:
    counts = np.bincount(split.labels, minlength=num_classes)
    if num_classes < 2:
        raise SettingsError(f"data.name={settings.name}: at least two classes are needed; all labels are 0")
    if not counts.all():
        missing = ", ".join(str(i) for i in np.flatnonzero(counts == 0)[:5])
        raise SettingsError(
            f"data.name={settings.name}: labels go up to {num_classes - 1}, and the {name} split has no image of class "
            f"{missing}"
        )


def add_noise(generator: np.random.Generator, images: Images, sd: float) -> Images:
    """Gaussian pixel noise of this sd on [0, 1], clipped and rounded back to 8 bits."""
    if sd == 0:
        return images
    noisy = images / 255 + generator.normal(0, sd, images.shape)
    return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def _long_tailed(generator: np.random.Generator, split: Split, imbalance: float) -> Split:
    """Class c of K keeps imbalance^(-c / (K - 1)) of its images (Cui et al. 2019), drawn at random; order is kept."""
    if imbalance == 1:
        return split
    classes, sizes = np.unique(split.labels, return_counts=True)
    kept = np.zeros(len(split.labels), bool)
    for i, (label, size) in enumerate(zip(classes, sizes, strict=True)):
        number = max(1, round(size * imbalance ** (-i / max(len(classes) - 1, 1))))
        kept[generator.permutation(np.flatnonzero(split.labels == label))[:number]] = True
    return Split(split.images[kept], split.labels[kept])


def _stratified(generator: np.random.Generator, split: Split, count: int) -> tuple[Split, Split]:
    """(the rest, `count` images) with the classes in proportion."""
    held = held_out(generator, split.labels, count)
    return Split(split.images[~held], split.labels[~held]), Split(split.images[held], split.labels[held])


def held_out(generator: np.random.Generator, labels: Labels, count: int) -> Bool[np.ndarray, " n"]:
    """Which `count` of the images to hold out, stratified: each class's share, rounded by largest remainder."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: count - take.sum()]] += 1
    held = np.zeros(len(labels), bool)
    for label, number in zip(classes, take, strict=True):
        held[generator.permutation(np.flatnonzero(labels == label))[:number]] = True
    return held


def content_digest(dataset: Dataset) -> str:
    """SHA-256 of every array of the splits."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test, dataset.unseen):
        for array in split or ():
            digest.update(str((array.dtype, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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


def look(images: UInt8[Array, "n h w c"], view: str) -> UInt8[Array, "n h w c"]:
    """A view of each image for a vote: "identity", "flip", or moved by one pixel, with zeros at the edge."""
    if view == "identity":
        return images
    if view == "flip":
        return images[:, :, ::-1]
    rows, columns = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[view]
    moved = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = images.shape[1:3]
    return moved[:, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width]


@lru_cache
def transforms(settings: Data) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(view, plain): augmented and normalised with one key an image, and only normalised. The same functions for the
    same settings (see `setting.network`)."""

    def one(key: Key[Array, ""], image: Any) -> Any:
        key_crop, key_flip, key_turn = jax.random.split(key, 3)
        if settings.crop:
            pad = settings.crop
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            corner = jax.random.randint(key_crop, (2,), 0, 2 * pad + 1)
            image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
        if settings.flip:
            image = jnp.where(jax.random.bernoulli(key_flip), image[:, ::-1], image)
        if settings.rotation:
            image = rotate(image, jax.random.uniform(key_turn, minval=-1.0) * jnp.deg2rad(settings.rotation))
        return image

    def plain(images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return normalise(images, settings.mean, settings.std)

    def view(keys: Key[Array, " n"], images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return plain(jax.vmap(one)(keys, images))

    return view, plain
