"""A folder of images: a folder for each class, as torchvision's ImageFolder reads it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bend_jax.checks import SettingsError
from bend_jax.data.images import Encoded, Split, read_all

TYPES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TRAINS = ("train", "training")  # in any case, like those of TESTS
TESTS = (("test", "testing"), ("val", "valid", "validation"))  # the first of which one is there has the test images
SPLITS = {*TRAINS, *TESTS[0], *TESTS[1]}
EXPECTED = "PATH/train/<class>/* and PATH/test/<class>/*, or PATH/<class>/*"
TINY_IMAGENET = "tiny-imagenet-200"  # the folder of the release


class Parts(NamedTuple):
    """The folder whose folders are the classes, these classes, and the folder with the test images, if any."""

    train: Path
    classes: list[str]
    test: Path | None


class Listed(NamedTuple):
    """Files and their labels."""

    files: list[Path]
    labels: list[int]


def read(name: str, path: Path, channels: int, side: int) -> tuple[Split, Split | None]:
    """(training images, test images or None where the folder has no such part).

    name: the data set, for errors; channels, side: as `images.decode` takes them. A label is the place of the class
    among the sorted names of the training folders. Raises SettingsError.
    """
    train, test = listed(name, path)
    files = [*train.files, *(test.files if test else ())]
    fetch = lambda begin, end: [Encoded(str(file), file) for file in files[begin:end]]  # noqa: E731
    images = read_all(name, len(files), fetch, channels, side)
    n = len(train.files)
    first = Split(images[:n], np.array(train.labels, np.int32))
    # a copy: a view would keep the array of all images when the training images have been split
    return first, Split(images[n:].copy(), np.array(test.labels, np.int32)) if test else None


def listed(name: str, path: Path) -> tuple[Listed, Listed | None]:
    """The files of the training and the test images; nothing is decoded."""
    root, classes, test = parts(name, path)
    if not classes:
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise SettingsError(
            f"data.name={name}: {path} has no folders of classes; it holds {held}; expected: {EXPECTED}"
        )
    train = _of_classes(root, classes, classes)
    empty = [classes[i] for i in range(len(classes)) if i not in set(train.labels)]
    if empty:
        raise SettingsError(
            f"data.name={name}: no image ({' '.join(TYPES)}) in the folders of classes {_some(empty)} of {root}: put "
            "some there, or take the folders away"
        )
    annotations = path / "val" / "val_annotations.txt"
    if root != path and annotations.is_file():
        return train, _annotated(name, annotations, classes)
    if test is None:
        return train, None
    found = _folders(test)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise SettingsError(f"data.name={name}: {test} has classes that {root} lacks: {_some(unknown)}")
    return train, _of_classes(test, found, classes)


def parts(name: str, path: Path) -> Parts:
    """Where the training and the test images are: train/ and test/ by any of their usual names, or the folder itself.

    Raises SettingsError where two folders have names of the same part, and where folders that are named like splits
    would be classes, or lie inside of them.
    """
    train = _part(name, path, TRAINS)
    if train is not None:
        tests = (_part(name, path, names) for names in TESTS)
        return Parts(train, _folders(train), next((test for test in tests if test is not None), None))
    classes = _folders(path)
    named = [own for own in classes if own.lower() in SPLITS]
    if named and ({own.lower() for own in named} - {*TRAINS} or named == classes):  # one of several may be a train
        raise SettingsError(
            f"data.name={name}: {path} has {_some(named)}, named like the parts of a set, and no folder train with "
            f"folders of classes in it; expected: {EXPECTED}; if these are classes, put all of them into {path}/train"
        )
    for own in classes:
        inside = [each for each in _folders(path / own) if each.lower() in SPLITS]
        if {each.lower() for each in inside} & {*TRAINS} and inside[1:]:
            raise SettingsError(
                f"data.name={name}: {path / own} holds {_some(inside)}, named like the parts of a set: if it is the "
                f"set, give data.name=folder:{path / own}; if it is a class, sort its images into {EXPECTED}"
            )
    return Parts(path, classes, None)


def _part(name: str, path: Path, names: tuple[str, ...]) -> Path | None:
    """The one folder with folders of classes that has one of these names, in any case; None where there is none."""
    found = [own for own in _folders(path) if own.lower() in names and _folders(path / own)]
    if found[1:]:
        raise SettingsError(f"data.name={name}: {path} has both {' and '.join(found)}: leave one of them there")
    return path / found[0] if found else None


def class_names(path: Path) -> tuple[str, ...]:
    """The folders of the training images, in the order of the labels."""
    return tuple(parts(str(path), path).classes)


def _of_classes(root: Path, own: list[str], classes: list[str]) -> Listed:
    """Every image below the folders of these classes; links are followed, hidden files are not images."""
    files, labels = list[Path](), list[int]()
    for name in own:
        for folder, inside in sorted(_walk(root / name)):
            found = [Path(folder, file) for file in sorted(inside) if _is_image(file)]
            files += found
            labels += [classes.index(name)] * len(found)
    return Listed(files, labels)


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder and the names in it; links are followed, but for those that lead back to where they are."""
    for folder, below, inside in os.walk(root, followlinks=True):
        yield folder, inside
        links = [name for name in below if os.path.islink(os.path.join(folder, name))]
        above = {Path(folder), *Path(folder).parents} - set(root.parents) if links else set()
        real = {os.path.join(os.path.realpath(one), "") for one in above}
        for name in links:
            target = os.path.join(os.path.realpath(os.path.join(folder, name)), "")
            if any(one.startswith(target) for one in real):
                below.remove(name)


def _annotated(name: str, annotations: Path, classes: list[str]) -> Listed:
    """The validation images of Tiny-ImageNet, which lie in one folder: a line for each with its name and its class."""
    lines = annotations.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split("\t")[:2] for line in lines if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise SettingsError(f"data.name={name}: {annotations} needs a file and its class in every line, a tab between")
    unknown = sorted({row[-1] for row in rows} - set(classes))
    if unknown:
        raise SettingsError(f"data.name={name}: {annotations} has classes that train lacks: {_some(unknown)}")
    place = {each: i for i, each in enumerate(classes)}
    return Listed([annotations.parent / "images" / row[0] for row in rows], [place[row[1]] for row in rows])


def _folders(path: Path) -> list[str]:
    """The names of the folders in a folder, but for hidden ones; none where it is not there."""
    if not path.is_dir():
        return []
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_image(file: str) -> bool:
    return file.lower().endswith(TYPES) and not file.startswith(".")


def _some(names: list[str]) -> str:
    """The first five, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
