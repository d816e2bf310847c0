"""A user's arrays in an .npz file, under the names that such files usually have."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bend_jax import files
from bend_jax.checks import SettingsError
from bend_jax.data.images import Split

IMAGES = ("x", "images", "image", "data")
LABELS = ("y", "labels", "label", "targets", "target")
TESTS = ("test", "val", "valid", "validation")  # the first that is there has the test images
EXPECTED = (
    "an .npz with x_train y_train x_test y_test is expected, or with train_images train_labels test_images "
    "test_labels, or X y, or images labels"
)


def read(path: Path) -> tuple[Split, Split | None]:
    """(training images, test images or None where the file has no such part).

    Images are uint8 [n, h, w, c] or [n, h, w] (grey), labels whole numbers from 0, [n] or [n, 1]; names are compared
    without regard to capitals, and the words may stand either way round (x_train, train_x). Raises SettingsError.
    """
    parts = list[tuple[str, str]]()

    def choose(names: list[str]) -> list[str]:
        parts.extend(_choose(path, names))
        return [name for pair in parts for name in pair]

    try:
        arrays = files.read_npz(path, choose)
    except SettingsError:
        raise
    except (OSError, ValueError) as error:
        raise SettingsError(f"data.name: {path} is damaged or no .npz: cannot read it ({error}); {EXPECTED}") from None
    splits = [_split(path, pair, arrays) for pair in parts]
    shapes = [split.images.shape[1:] for split in splits]
    if len(set(shapes)) > 1:
        named = " and ".join(str(list(shape)) for shape in shapes)
        raise SettingsError(f"data.name: {path}: training and test images have different shapes, {named}")
    return splits[0], splits[1] if splits[1:] else None


def _choose(path: Path, names: list[str]) -> list[tuple[str, str]]:
    """The names of images and labels of the training part, and of the test part where there is one."""

    def one(words: Iterable[str], part: str) -> str:
        forms = {form for word in words for form in ((f"{word}_{part}", f"{part}_{word}") if part else (word,))}
        found = [name for name in names if name.lower() in forms]
        if found[1:]:
            raise SettingsError(f"data.name: {path} has both {' and '.join(found)}: leave one of them there")
        return found[0] if found else ""

    def pair(part: str) -> list[tuple[str, str]]:
        images, labels = one(IMAGES, part), one(LABELS, part)
        if bool(images) != bool(labels):
            end = f"_{part}" if part else ""
            lacks = f"{images} without labels (y{end})" if images else f"{labels} without images (x{end})"
            raise SettingsError(f"data.name: cannot read {path}: it has {lacks}; it holds {', '.join(names)}")
        return [(images, labels)] if images else []

    train = pair("train")
    if train:
        return [*train, *next((found for found in map(pair, TESTS) if found), [])]
    whole = pair("")
    if not whole:
        held = ", ".join(names) or "nothing"
        raise SettingsError(f"data.name: cannot read images and labels from {path}, which holds {held}; {EXPECTED}")
    return whole


def _split(path: Path, pair: tuple[str, str], arrays: dict[str, Any]) -> Split:
    images, labels = (arrays[name] for name in pair)
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise SettingsError(
            f"data.name: {path} needs uint8 images [n, h, w, c] or [n, h, w] and labels [n] or [n, 1]; {pair[0]} is "
            f"{arrays[pair[0]].dtype}{list(arrays[pair[0]].shape)}, {pair[1]} is {list(arrays[pair[1]].shape)}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise SettingsError(f"data.name: {path} needs whole numbers as labels; {pair[1]} is {labels.dtype}")
    if not images.size or labels.min() < 0 or labels.max() >= 2**31:
        raise SettingsError(
            f"data.name: {path} needs at least one image, and labels from 0; look at {pair[0]}, {pair[1]}"
        )
    return Split(images, labels.astype(np.int32))
