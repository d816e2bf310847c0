"""Official archives: downloaded where they are not there, checked against their published sums, and read."""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bend_jax.checks import SettingsError
from bend_jax.data import images
from bend_jax.data.images import Split

TIMEOUT = 5.0  # seconds without an answer before a download is given up


class Archive(NamedTuple):
    """A file of an official release, and its published md5 sum."""

    url: str
    md5: str


class Sizes(NamedTuple):
    """What a release holds."""

    train: int
    test: int
    shape: tuple[int, int, int]
    classes: int


TORONTO = "https://www.cs.toronto.edu/~kriz/"
MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FASHION = "https://fashion-mnist.s3.eu-central-1.amazonaws.com/"
# the order of the four MNIST files is training images, training labels, test images, test labels
ARCHIVES = {
    "cifar10": (Archive(f"{TORONTO}cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    "cifar100": (Archive(f"{TORONTO}cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
    "mnist": (
        Archive(f"{MNIST}train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        Archive(f"{MNIST}train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        Archive(f"{MNIST}t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        Archive(f"{MNIST}t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "fashion_mnist": (
        Archive(f"{FASHION}train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Archive(f"{FASHION}train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        Archive(f"{FASHION}t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        Archive(f"{FASHION}t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
SIZES = {
    "cifar10": Sizes(50_000, 10_000, (32, 32, 3), 10),
    "cifar100": Sizes(50_000, 10_000, (32, 32, 3), 100),
    "mnist": Sizes(60_000, 10_000, (28, 28, 1), 10),
    "fashion_mnist": Sizes(60_000, 10_000, (28, 28, 1), 10),
    "digits": Sizes(1797, 0, (8, 8, 1), 10),  # inside scikit-learn
    "imagenet2012": Sizes(1_281_167, 50_000, (224, 224, 3), 1000),  # to be prepared by hand; as it is resized
}
# folder in the archive, training files, test file, label bytes before each image (the last one counts)
CIFAR = {
    "cifar10": ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1),
    "cifar100": ("cifar-100-binary", ["train.bin"], "test.bin", 2),
}


def read(name: str, folder: Path) -> tuple[Split, Split]:
    """(training images, test images) of a release. Raises SettingsError."""
    files = fetch(name, folder)
    return _cifar(name, files[0]) if name in CIFAR else _mnist(name, files)


def blank(name: str) -> tuple[Split, Split | None]:
    """Images of one colour in the sizes of a set that is not there, their labels in turn: for a dry run."""
    sizes, value = SIZES[name], list(SIZES).index(name)

    def split(n: int) -> Split:
        labels = np.arange(n, dtype=np.int32) % sizes.classes
        return Split(images.blank(n, np.full(sizes.shape, value, np.uint8)), labels)

    return split(sizes.train), split(sizes.test) if sizes.test else None


def absent(name: str, folder: Path) -> str:
    """Why a run would download the archives of a set; "" where they are all there and whole."""
    for archive in ARCHIVES[name]:
        path = _place(name, folder, archive)
        if not path.is_file():
            return f"{path} is not there: a run downloads it"
        if _is_damaged(path, archive):
            return f"{path} is damaged: a run downloads it again"
    return ""


def _place(name: str, folder: Path, archive: Archive) -> Path:
    return folder / "downloads" / "bend_jax" / name / archive.url.rsplit("/", 1)[1]


def _is_damaged(path: Path, archive: Archive) -> bool:
    """Whether a file is there that is not the release's."""
    import pooch

    return path.is_file() and pooch.file_hash(str(path), alg="md5") != archive.md5


def fetch(name: str, folder: Path) -> list[Path]:
    """The official archives of a set, downloaded where they are not there yet; checked against their md5 sums.

    A file appears whole or not at all. Raises SettingsError where one cannot be had.
    """
    import pooch

    found = []
    for archive in ARCHIVES[name]:
        downloader: Any = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
        path = _place(name, folder, archive)
        try:
            pooch.retrieve(archive.url, f"md5:{archive.md5}", path.name, path.parent, downloader=downloader)
        except Exception as error:  # noqa: BLE001  requests, urllib3, sockets and pooch each raise their own
            what = f"not prepared in {folder / name}"
            if _is_damaged(path, archive):
                what = f"{path} is damaged: its md5 sum is not the release's"
            raise SettingsError(
                f"data.name={name}: {what}, and {archive.url} cannot be fetched ({_root_cause(error)}); put that file "
                f"into {path.parent}, or prepare the set with tensorflow-datasets (data.dir or TFDS_DATA_DIR), or use "
                "npz:PATH"
            ) from None
        found.append(path)
    return found


def _root_cause(error: BaseException) -> str:
    """The first line of the error that started a chain of them."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).split("\n")[0][:160] or type(error).__name__


def _cifar(name: str, path: Path) -> tuple[Split, Split]:
    """The binary release: label bytes, then 3072 bytes of red, green and blue, row by row."""
    folder, train, test, label_bytes = CIFAR[name]
    most = SIZES[name].train * (label_bytes + 3072)

    def rows(archive: tarfile.TarFile, files: list[str]) -> Split:
        parts = []
        for file in files:
            member = archive.extractfile(f"{folder}/{file}")
            if member is None:
                raise ValueError(f"{file} is no file in it")
            parts.append(np.frombuffer(_whole(member, most), np.uint8).reshape(-1, label_bytes + 3072))
        records = np.concatenate(parts)
        pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(pixels), records[:, label_bytes - 1].astype(np.int32))

    with _clear_error(name, path), tarfile.open(path) as archive:
        return rows(archive, train), rows(archive, [test])


def _mnist(name: str, paths: list[Path]) -> tuple[Split, Split]:
    """The idx files: a header of 16 bytes before images, of 8 before labels."""
    most, raw = 16 + SIZES[name].train * 28 * 28, list[bytes]()
    with _clear_error(name, paths[0].parent):
        for path in paths:
            with gzip.open(path) as file:
                raw.append(_whole(file, most))
        pixels = [np.frombuffer(raw[i], np.uint8, offset=16).reshape(-1, 28, 28, 1) for i in (0, 2)]
        labels = [np.frombuffer(raw[i], np.uint8, offset=8).astype(np.int32) for i in (1, 3)]
    return Split(pixels[0], labels[0]), Split(pixels[1], labels[1])


def _whole(file: Any, most: int) -> bytes:
    """What is in a file. Raises ValueError for more than `most` bytes."""
    found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"a file in it has more than the release's {most:,} bytes")
    return found


@contextlib.contextmanager
def _clear_error(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zlib.error, tarfile.TarError) as error:
        message = f"data.name={name}: {path} is damaged ({error}); delete it to have it fetched again"
        raise SettingsError(message) from None
