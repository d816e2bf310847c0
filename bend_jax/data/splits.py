"""The three splits of a data set, and augmentation on the device."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bend_jax.checks import SettingsError
from bend_jax.data import folder, sources
from bend_jax.data.augment import add_noise
from bend_jax.data.images import planes_first, taken
from bend_jax.data.sources import Data, Images, Labels, Split

MEASURED = 10_000  # images that mean and standard deviation are taken from, at most

SHOWN = 5  # classes that an error names


class Dataset(NamedTuple):
    """The three splits. Only the evaluate stage reads `test`. unseen: training images that are not in `train`, on which
    the collector alone is fitted; None where it is fitted on `train`. notes: what a user should know about them."""

    train: Split
    validation: Split
    test: Split
    num_classes: int
    unseen: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def collected(self) -> Split:
        """What the collector is fitted on."""
        return self.train if self.unseen is None else self.unseen

    @property
    def training_images(self) -> int:
        """Of all training images: an epoch is a pass over so many."""
        return len(self.train.labels) + (0 if self.unseen is None else len(self.unseen.labels))


def load(settings: Data, *, dry: bool = False) -> Dataset:
    """Read, add the noise of the settings, and split. Raises SettingsError where the set is missing or malformed.

    dry: nothing is downloaded; blank images stand in for a set that would be (`sources.absent`), and a note says so.
    """
    train, test = sources.read(settings, dry=dry)
    _check(settings, train)
    generator = np.random.default_rng(settings.split_seed)
    is_shared = test is None
    if test is None:
        train, test = _stratified(generator, train, round(settings.test * len(train.labels)))
    _check(settings, test)
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    train = _long_tailed(generator, train, settings.imbalance)
    train = train._replace(images=add_noise(generator, train.images, settings.noise))
    test = test._replace(images=add_noise(generator, test.images, settings.noise))
    held = test if settings.init_unseen == "test" else train
    count = min(settings.validation_most, round(settings.validation * len(held.labels)))
    rest, validation = _stratified(generator, held, count)
    train, test = (train, rest) if held is test else (rest, test)
    unseen = None
    if settings.unseen:
        train, unseen = _stratified(generator, train, round(settings.unseen * len(train.labels)))
    why = dry and sources.absent(settings)
    notes = [f"{why}; its sizes are those of the release"] if why else []
    named = () if why else sources.class_names(settings)
    _check_classes(settings, train, num_classes)
    parts = {"collector's": unseen, "validation": validation, "test": test}
    notes += [] if why else [_content(settings, num_classes, {"training": train, **parts}, named, is_shared)]
    notes += [_missing(settings, name, part, num_classes, named) for name, part in parts.items() if part is not None]
    notes += [] if why else [_normalisation(settings, train)]
    return Dataset(train, validation, test, num_classes, unseen, tuple(note for note in notes if note))


def _content(
    settings: Data, count: int, parts: dict[str, Split | None], named: tuple[str, ...], is_shared: bool
) -> str:
    """A line on a user's own images: their classes, how many are in each split, and which folders or share these are;
    "" for other sets."""
    kind, place = sources.kind_of(settings.name)
    if not kind:
        return ""
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    called = ", ".join(named[:SHOWN]) + more if named else f"0 to {count - 1}"
    sizes = ", ".join(f"{len(part.labels)} {name}" for name, part in parts.items() if part)
    found = folder.parts(settings.name, Path(place)) if kind == "folder" else None
    origin = f" (of {found.train.name} and {found.test.name})" if found and found.test else ""
    origin = f" (data.test={settings.test:g} of {found.train.name if found else 'all'})" if is_shared else origin
    return f"{count} classes: {called}; {sizes} images{origin}"


def _check(settings: Data, split: Split) -> None:
    images = split.images
    if not len(images):
        raise SettingsError(f"data.name={settings.name}: no training images, or no test images; look at data.test")
    if images.shape[-1] != len(settings.mean):
        count = images.shape[-1]
        hint = planes_first(images) or f"{count} channels need as many; measured: {_flags(*moments(images))}"
        raise SettingsError(
            f"data.mean has {len(settings.mean)} numbers; the images of {settings.name} are {list(images.shape)}: "
            f"{hint}"
        )


def moments(images: Images) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean and standard deviation of the pixels on [0, 1], by channel, over all of at most 10,000 of the images."""
    rows = np.linspace(0, len(images) - 1, min(len(images), MEASURED)).astype(int)
    channels = images.shape[-1]
    counts = np.zeros((channels, 256))
    for begin in range(0, len(rows), 500):
        pixels = images[rows[begin : begin + 500]].reshape(-1, channels)
        counts += [np.bincount(pixels[:, i], minlength=256) for i in range(channels)]
    levels, shares = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    return mean, np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))


def _flags(mean: Float[np.ndarray, " c"], std: Float[np.ndarray, " c"]) -> str:
    """The settings that say so."""
    texts = (",".join(f"{x:.3f}" for x in numbers) for numbers in (mean, np.maximum(std, 0.001)))
    return " ".join(f'--config.data.{name}="({text},)"' for name, text in zip(("mean", "std"), texts, strict=True))


def _normalisation(settings: Data, train: Split) -> str:
    """A line where pixels of a user's own images are further than a tenth of their sd from what the settings say; ""
    for a network of --init, which is normalised as it was trained."""
    if not sources.kind_of(settings.name)[0] or settings.init_unseen:
        return ""
    mean, std = moments(train.images)
    off = np.abs(np.concatenate([mean - settings.mean, std - settings.std]))
    if (off <= np.tile(np.maximum(std, 0.001), 2) / 10).all():
        return ""
    return f"data.mean and data.std are not those of the training images, which are {_flags(mean, std)}"


def _check_classes(settings: Data, train: Split, num_classes: int) -> None:
    if num_classes < 2:
        raise SettingsError(f"data.name={settings.name}: at least two classes are needed; all labels are 0")
    missing, count = _without(train, num_classes)
    if count:
        raise SettingsError(
            f"data.name={settings.name}: labels go up to {num_classes - 1}, and the training split has no image of "
            f"class {_some(missing, count)}"
        )


def _missing(settings: Data, name: str, split: Split, num_classes: int, named: tuple[str, ...]) -> str:
    """Which classes a split has no image of, and what that means; "" for none. Raises SettingsError for no images."""
    if not len(split.labels):
        raise SettingsError(
            f"data.name={settings.name}: the {name} split has no image: more are needed, or another share"
        )
    missing, count = _without(split, num_classes)
    return f"the {name} split has no image of class {_some(missing, count, named)}" if count else ""


def _without(split: Split, num_classes: int) -> tuple[list[int], int]:
    """The first classes that no image has, and how many they are, in memory that grows with the images alone."""
    present = np.unique(split.labels)
    first = np.setdiff1d(np.arange(min(num_classes, len(present) + SHOWN)), present)
    return first[:SHOWN].tolist(), num_classes - len(present)


def _some(numbers: list[int], count: int, named: tuple[str, ...] = ()) -> str:
    """The first ones with their names, and how many more there are."""
    more = f" and {count - len(numbers)} more" if count > len(numbers) else ""
    return ", ".join(f"{n} ({named[n]})" if n < len(named) else str(n) for n in numbers) + more


def _long_tailed(generator: np.random.Generator, split: Split, imbalance: float) -> Split:
    """Class c of K keeps imbalance^(-c / (K - 1)) of its images (Cui et al. 2019), drawn at random; order is kept."""
    if imbalance == 1:
        return split
    classes, sizes = np.unique(split.labels, return_counts=True)
    kept = np.zeros(len(split.labels), bool)
    for i, (label, size) in enumerate(zip(classes, sizes, strict=True)):
        number = max(1, round(size * imbalance ** (-i / max(len(classes) - 1, 1))))
        kept[generator.permutation(np.flatnonzero(split.labels == label))[:number]] = True
    return Split(taken(split.images, kept), split.labels[kept])


def _stratified(generator: np.random.Generator, split: Split, count: int) -> tuple[Split, Split]:
    """(the rest, `count` images) with the classes in proportion."""
    held = held_out(generator, split.labels, count)
    rest, own = (Split(taken(split.images, which), split.labels[which]) for which in (~held, held))
    return rest, own


def held_out(generator: np.random.Generator, labels: Labels, count: int) -> Bool[np.ndarray, " n"]:
    """Which `count` of the images to hold out, stratified: each class's share, rounded by largest remainder. One image
    of each class stays, so that fewer are held out where there are no more."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: count - take.sum()]] += 1
    take = np.minimum(take, sizes - 1)
    while take.sum() < count and (take < sizes - 1).any():  # what a class cannot give, others do
        take[np.argmax(np.where(take < sizes - 1, exact - take, -np.inf))] += 1
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
