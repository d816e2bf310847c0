"""Sets that tensorflow-datasets has prepared, read without TensorFlow."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from bend_jax.checks import SettingsError, did_you_mean
from bend_jax.data.images import Encoded, Split, read_all

KNOWN = ("stl10", "svhn_cropped", "food101", "oxford_flowers102", "tf_flowers", "oxford_iiit_pet")
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
TESTS = ("test", "validation")  # the first whose images have labels is the test split


def find(wanted: str, folder: Path) -> Path | None:
    """The folder of a set's newest version, by number, or of the one named behind a colon; None where it is not
    prepared. What is unfinished (no folder of a version, or no dataset_info.json in it) is passed over."""
    name, _, version = wanted.partition(":")
    found = {path: VERSION.fullmatch(path.parent.name) for path in (folder / name).glob("*/dataset_info.json")}
    numbers = {path.parent: tuple(map(int, match.groups())) for path, match in found.items() if match}
    fitting = [path for path in numbers if version in ("", path.name)]
    return max(fitting, key=lambda path: numbers[path], default=None)


def read(label: str, wanted: str, folder: Path, side: int) -> tuple[Split, Split | None]:
    """(training images, test images or None where the set has none with labels). The split `test`, else `validation`.

    label: data.name, for errors; wanted: NAME or NAME:VERSION; side: as `images.decode` takes it. Raises SettingsError.
    """
    path = find(wanted, folder)
    if path is None:
        raise SettingsError(f"data.name={label}: {_not_there(wanted, folder)}")
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(str(path))
    except Exception as error:  # noqa: BLE001  whatever reads the damaged file raises its own
        raise SettingsError(f"data.name={label}: {path} is damaged ({_line(error)}): prepare it again") from None
    format_of = builder.info.file_format.value if builder.info.file_format else "an unknown format"
    if format_of not in ("array_record", "parquet"):
        raise SettingsError(
            f"data.name={label}: {path} is prepared as {format_of}, which only TensorFlow reads; prepare it with "
            "file_format=array_record, or give another data.dir"
        )
    keys = _keys(label, builder.info)
    if "train" not in builder.info.splits:
        raise SettingsError(f"data.name={label}: {path} has no split train; it has {', '.join(builder.info.splits)}")
    train = _split(label, builder, "train", keys, side)
    if train is None:
        raise SettingsError(f"data.name={label}: the training images of {path} have no labels")
    tests = (_split(label, builder, name, keys, side) for name in TESTS if name in builder.info.splits)
    return train, next((test for test in tests if test is not None), None)


def class_names(wanted: str, folder: Path) -> tuple[str, ...]:
    """As the set was prepared with them, in the order of the labels; none where that is not known."""
    path = find(wanted, folder)
    found = [] if path is None else [*path.glob("*.labels.txt")]
    return tuple(found[0].read_text(encoding="utf-8").split("\n")) if len(found) == 1 else ()


def _not_there(wanted: str, folder: Path) -> str:
    name, _, version = wanted.partition(":")
    newest = find(name, folder)
    if newest is not None:
        there = sorted(path.name for path in newest.parent.iterdir() if find(f"{name}:{path.name}", folder))
        return f"version {version} is not prepared in {newest.parent}; there are {', '.join(there)}"
    inside = sorted(path.name for path in folder.iterdir() if find(path.name, folder)) if folder.is_dir() else []
    return (
        f"not prepared in {folder / name}{did_you_mean(name, inside)}; prepared there: {', '.join(inside) or 'none'}; "
        f"to prepare it: tensorflow_datasets.builder({name!r}, file_format='array_record').download_and_prepare(), or "
        "give another data.dir"
    )


def _keys(label: str, info: Any) -> tuple[str, str]:
    """The features with the image and with its class: those that the set names as supervised, else image and label."""
    import tensorflow_datasets as tfds

    image, target = (str(key) for key in (info.supervised_keys or ("image", "label"))[:2])
    features: dict[str, Any] = dict(info.features.items())
    is_image = isinstance(features.get(image), tfds.features.Image)
    is_read = is_image and features[image].np_dtype in (np.uint8, np.uint16)
    if not is_read or not isinstance(features.get(target), tfds.features.ClassLabel):
        raise SettingsError(
            f"data.name={label}: no set of images with one class each; its features are {', '.join(features)}"
        )
    return image, target


def _split(label: str, builder: Any, name: str, keys: tuple[str, str], side: int) -> Split | None:
    """All images of a split and their labels; None where they have no labels, which are then below 0."""
    import tensorflow_datasets as tfds

    from bend_jax import devices

    image, target = keys
    channels = 1 if builder.info.features[image].shape[-1] == 1 else 3

    def fetch(begin: int, end: int) -> list[Encoded]:
        rows = source.__getitems__(list(range(begin, end))) if begin < end else []
        found = np.array([int(row[target]) for row in rows], np.int64)
        labels[begin:end] = np.where((found >= 0) & (found < 2**31), found, -1)
        return [Encoded(f"{name}[{begin + i}]", io.BytesIO(row[image])) for i, row in enumerate(rows)]

    try:
        source = builder.as_data_source(name, decoders={image: tfds.decode.SkipDecoding()})
        n = len(source)
        if n and source[0][target] < 0:
            return None
        labels = np.full(n, -1, np.int32)
        images = read_all(label, n, fetch, channels, side)
        labels = devices.exchanged(labels).max(axis=0)  # each process has its own, and -1 elsewhere
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001  of the readers of array_record and parquet
        raise SettingsError(
            f"data.name={label}: {builder.data_dir} is damaged ({_line(error)}): prepare it again"
        ) from None
    if labels.min() < 0:
        raise SettingsError(f"data.name={label}: the split {name} has images without a label, or with one above 2**31")
    return Split(images, labels)


def _line(error: Exception) -> str:
    return str(error).split("\n")[0][:160] or type(error).__name__
