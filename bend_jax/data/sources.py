"""Where images come from: folders, prepared tensorflow-datasets, official archives, scikit-learn, a user's .npz."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bend_jax.checks import Settings, SettingsError, did_you_mean, expanded, setting
from bend_jax.data import archives, folder, npz, prepared
from bend_jax.data.images import LARGEST, Images, Labels, Split, resized

__all__ = ["NAMES", "Data", "Images", "Labels", "Split", "absent", "check", "data_dir", "read"]


class Data(Settings):
    """The images, their split and their augmentation."""

    name: str = setting(
        "the set; folder:PATH: images in a folder for each class; npz:PATH: arrays of your own; tfds:NAME[:VERSION]: a "
        "set of labelled images that tensorflow-datasets has prepared",
        default="cifar10",
    )
    dir: str = setting("where sets are prepared; empty: TFDS_DATA_DIR, or TFDS's default", default="", digest=False)
    resize: int = setting(
        "the side of square images, in pixels: the short side is resized to it, and the centre cut out; 0: their own "
        "sizes",
        default=0,
        least=0,
        most=LARGEST,
        added=True,
    )
    test: float = setting(
        "share of the images, stratified, that are test images where a set has none of its own",
        default=0.5,
        above=0,
        below=1,
        added=True,
    )
    imbalance: float = setting(
        "largest class over smallest in a long-tailed training set; class sizes fall geometrically",
        default=1.0,
        least=1,
    )
    noise: float = setting("sd of Gaussian pixel noise on [0, 1], added once to every split", default=0.0, least=0)
    split_seed: int = setting(
        "of the split and of the noise; the same in every run, whatever --seed", default=0, least=0
    )
    validation: float = setting(
        "share of the training images held out, stratified; with init_unseen=test of the test images",
        default=0.1,
        above=0,
        below=1,
    )
    validation_most: int = setting("images held out at most", default=5000, least=1)
    unseen: float = setting(
        "share of the training images, stratified, for the collector alone: the base never sees them",
        default=0.0,
        least=0,
        below=1,
    )
    init_unseen: str = setting(
        "images that a network of --init was not trained on, for temperatures, tuning and choices: the same validation "
        "images (validation), or only test images, of which the validation images are then taken (test)",
        default="",
        choices=("", "validation", "test"),
        added=True,
    )
    crop: int = setting("the largest random shift, in pixels", default=4, least=0)
    crop_padding: str = setting(
        "what is outside of a shifted image", default="zeros", choices=("zeros", "reflect"), added=True
    )
    flip: bool = setting("random mirror images", default=True)
    flip_alternates: bool = setting(
        "whether each image is mirrored in every other epoch, instead of at random (Jordan 2024)",
        default=False,
        added=True,
    )
    rotation: float = setting("the largest random rotation, in degrees", default=0.0, least=0)
    trivial_augment: bool = setting(
        "one change an image, of a kind and strength drawn evenly (TrivialAugment, Müller & Hutter 2021)",
        default=False,
        added=True,
    )
    erasing: float = setting(
        "share of the images that lose a random box to noise (random erasing, Zhong et al. 2020)",
        default=0.0,
        least=0,
        most=1,
        added=True,
    )
    cutout: int = setting(
        "the side of a square of the mean colour about a random pixel (cutout, DeVries & Taylor 2017), in pixels; 0: "
        "none",
        default=0,
        least=0,
        added=True,
    )
    mean: tuple[float, ...] = setting("of the training images, by channel", default=(0.4914, 0.4822, 0.4465))
    std: tuple[float, ...] = setting("of the training images, by channel; above 0", default=(0.2023, 0.1994, 0.2010))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise SettingsError(f"mean and std need one number a channel, std above 0; got {self.mean}, {self.std}")
        if self.flip_alternates and not self.flip:
            raise SettingsError(
                "flip_alternates=True says when images are mirrored, and flip=False never does: drop one"
            )


NAMES = ("digits", *archives.ARCHIVES, *prepared.KNOWN, "tiny_imagenet")
FORMS = ("folder:PATH", "npz:PATH", "tfds:NAME[:VERSION]")


def kind_of(name: str) -> tuple[str, str]:
    """("folder", "npz" or "tfds", what stands behind it), or ("", the name) for a set of NAMES."""
    kind, colon, rest = name.partition(":")
    if colon and kind in ("folder", "npz", "tfds"):
        return kind, rest if kind == "tfds" else str(expanded(rest))
    return ("tfds", name) if name in prepared.KNOWN else ("", name)


def check(settings: Data) -> None:
    """Raise SettingsError for a name that is not known or a file that is not there, without reading anything."""
    kind, rest = kind_of(settings.name)
    if kind == "npz" and not Path(rest).is_file():
        raise SettingsError(f"data.name: no file {rest}; {npz.EXPECTED}")
    if kind == "folder" and not Path(rest).is_dir():
        raise SettingsError(f"data.name: no folder {rest}; {folder.EXPECTED} is expected")
    if kind == "folder" and len(settings.mean) not in (1, 3):
        raise SettingsError(
            f"data.mean has {len(settings.mean)} numbers; images of a folder have as many channels: 3, or 1 for grey"
        )
    if not kind and rest not in NAMES:
        hint = did_you_mean(rest, NAMES)
        if not hint and prepared.find(rest, data_dir(settings)):
            hint = f" (did you mean 'tfds:{rest}'?)"
        known = ", ".join((*NAMES, *FORMS))
        raise SettingsError(f"data.name: unknown data set {rest!r}{hint}; there are {known}")


def read(settings: Data, *, dry: bool = False) -> tuple[Split, Split | None]:
    """(training images, test images or None where the set has no test split of its own), in the size of the settings.

    dry: in place of a set that would have to be downloaded or installed (`absent`), blank images in its sizes. Raises
    SettingsError where the set is missing, cannot be fetched, or is malformed.
    """
    check(settings)
    train, test = archives.blank(_release(settings)) if dry and absent(settings) else _read(settings)
    train = train._replace(images=resized(settings.name, train.images, settings.resize))
    return train, test and test._replace(images=resized(settings.name, test.images, settings.resize))


def _read(settings: Data) -> tuple[Split, Split | None]:
    name, (kind, rest) = settings.name, kind_of(settings.name)
    channels, side = len(settings.mean), settings.resize
    if kind == "npz":
        return npz.read(Path(rest))
    if kind == "folder":
        return folder.read(name, Path(rest), channels, side)
    if name == "digits":
        return _digits(), None
    place = data_dir(settings)
    if name == "tiny_imagenet":
        release = place / folder.TINY_IMAGENET
        if not release.is_dir():
            raise SettingsError(f"data.name={name}: no folder {release}: unpack {release.name}.zip, or give data.dir")
        return folder.read(name, release, 3, side)
    if kind == "tfds" or prepared.find(name, place):
        return prepared.read(name, rest, place, side)
    return archives.read(name, place)


def class_names(settings: Data) -> tuple[str, ...]:
    """What the set calls its classes, in their order; none where it has no names for them."""
    kind, rest = kind_of(settings.name)
    if kind == "folder":
        return folder.class_names(Path(rest))
    if kind == "npz" or rest == "digits":
        return ()
    place = data_dir(settings)
    if rest == "tiny_imagenet":
        return folder.class_names(place / folder.TINY_IMAGENET)
    return prepared.class_names(rest, place) if kind == "tfds" or prepared.find(rest, place) else ()


def absent(settings: Data) -> str:
    """Why the set's images are not here and a run would fetch or miss them; "" for a set that is only read."""
    if settings.name == "digits":
        return "" if find_spec("sklearn") else "a run needs scikit-learn: pip install scikit-learn"
    place = data_dir(settings)
    kind, wanted = kind_of(settings.name)
    if kind == "tfds" and _release(settings) in archives.SIZES and not prepared.find(wanted, place):
        return f"not prepared in {place / _release(settings)}: a run needs that"
    if settings.name not in archives.ARCHIVES or prepared.find(settings.name, place):
        return ""
    return archives.absent(settings.name, place)


def _release(settings: Data) -> str:
    """The set's own name, without where it comes from and its version."""
    return kind_of(settings.name)[1].partition(":")[0]


def data_dir(settings: Data) -> Path:
    """The setting, else TFDS_DATA_DIR, else tensorflow-datasets' own default."""
    return expanded(settings.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _digits() -> Split:
    """scikit-learn's 1797 handwritten 8x8 digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SettingsError("data.name=digits needs scikit-learn: pip install scikit-learn") from None
    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Split(images, bunch.target.astype(np.int32))
