"""Where images come from: prepared tensorflow-datasets, official archives, scikit-learn, a user's .npz."""

import contextlib
import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from bend_jax.checks import Settings, SettingsError, did_you_mean, setting


class Data(Settings):
    """The images, their split and their augmentation."""

    name: str = setting(
        "the set; npz:PATH: a file of your own with x_train, y_train, x_test, y_test", default="cifar10"
    )
    dir: str = setting("where sets are prepared; empty: TFDS_DATA_DIR, or TFDS's default", default="", digest=False)
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
    flip: bool = setting("random mirror images", default=True)
    rotation: float = setting("the largest random rotation, in degrees", default=0.0, least=0)
    mean: tuple[float, ...] = setting("of the training images, by channel", default=(0.4914, 0.4822, 0.4465))
    std: tuple[float, ...] = setting("of the training images, by channel; above 0", default=(0.2023, 0.1994, 0.2010))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise SettingsError(f"mean and std need one number a channel, std above 0; got {self.mean}, {self.std}")


Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]
TIMEOUT = 5.0  # seconds without an answer before a download is given up


class Split(NamedTuple):
    """Some images and their labels."""

    images: Images
    labels: Labels


class Archive(NamedTuple):
    """A file of an official release, and its published md5 sum."""

    url: str
    md5: str


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
NAMES = ("digits", *ARCHIVES)  # and "npz:PATH"
# folder in the archive, training files, test file, label bytes before each image (the last one counts)
CIFAR = {
    "cifar10": ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1),
    "cifar100": ("cifar-100-binary", ["train.bin"], "test.bin", 2),
}


def check(settings: Data) -> None:
    """Raise SettingsError for a name that is not known or a file that is not there, without reading anything."""
    if settings.name.startswith("npz:"):
        path = Path(settings.name[4:])
        if not path.is_file():
            raise SettingsError(f"data.name: no file {path}; an .npz with x_train y_train x_test y_test is expected")
    elif settings.name not in NAMES:
        known = ", ".join((*NAMES, "npz:PATH"))
        raise SettingsError(
            f"data.name: unknown data set {settings.name!r}{did_you_mean(settings.name, NAMES)}; there are {known}"
        )


def read(settings: Data) -> tuple[Split, Split | None]:
    """(training images, test images or None where the set has no test split of its own).

    Raises SettingsError where the set is missing, cannot be fetched, or is malformed.
    """
    check(settings)
    if settings.name.startswith("npz:"):
        return _npz(Path(settings.name[4:]))
    if settings.name == "digits":
        return _digits(), None
    folder = data_dir(settings)
    prepared = _prepared(settings.name, folder)
    if prepared is not None:
        return _tfds(prepared, "train"), _tfds(prepared, "test")
    files = fetch(settings.name, folder)
    return _cifar(settings.name, files[0]) if settings.name in CIFAR else _mnist(settings.name, files)


def data_dir(settings: Data) -> Path:
    """The setting, else TFDS_DATA_DIR, else tensorflow-datasets' own default."""
    return Path(settings.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _prepared(name: str, folder: Path) -> Any:
    """tensorflow-datasets' builder where the set is prepared in a format that reads without TensorFlow, else None."""
    if not any((folder / name).glob("*/dataset_info.json")):
        return None
    import tensorflow_datasets as tfds

    version = sorted((folder / name).glob("*/dataset_info.json"))[-1].parent
    builder = tfds.builder_from_directory(str(version))
    format_of = builder.info.file_format.value if builder.info.file_format else "an unknown format"
    if format_of not in ("array_record", "parquet"):
        raise SettingsError(
            f"data.name={name}: {version} is prepared as {format_of}, which only TensorFlow reads; prepare it with "
            "file_format=array_record, or give another data.dir"
        )
    return builder


def _tfds(builder: Any, split: str) -> Split:
    """All images of a prepared set. (Decoding small PNG in threads is slower than one after the other.)"""
    import tensorflow_datasets as tfds
    from PIL import Image

    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    rows = source.__getitems__(list(range(len(source))))
    images = np.empty((len(rows), *builder.info.features["image"].shape), np.uint8)
    for i, row in enumerate(rows):
        images[i] = np.asarray(Image.open(io.BytesIO(row["image"]))).reshape(images.shape[1:])
    return Split(images, np.array([row["label"] for row in rows], np.int32))


def fetch(name: str, folder: Path) -> list[Path]:
    """The official archives of a set, downloaded where they are not there yet; checked against their md5 sums.

    A file appears whole or not at all. Raises SettingsError where one cannot be had.
    """
    import pooch

    target = folder / "downloads" / "bend_jax" / name
    found = []
    for archive in ARCHIVES[name]:
        downloader: Any = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
        file = archive.url.rsplit("/", 1)[1]
        try:
            path = pooch.retrieve(archive.url, f"md5:{archive.md5}", file, target, downloader=downloader)
        except Exception as error:  # noqa: BLE001  requests, urllib3, sockets and pooch each raise their own
            raise SettingsError(
                f"data.name={name}: not prepared in {folder / name}, and {archive.url} cannot be fetched "
                f"({_root_cause(error)}); put that file into {target}, or prepare the set with tensorflow-datasets "
                "(data.dir or TFDS_DATA_DIR), or use npz:PATH"
            ) from None
        found.append(Path(path))
    return found


def _root_cause(error: BaseException) -> str:
    """The first line of the error that started a chain of them."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).split("\n")[0][:160] or type(error).__name__


def _cifar(name: str, path: Path) -> tuple[Split, Split]:
    """The binary release: label bytes, then 3072 bytes of red, green and blue, row by row."""
    folder, train, test, label_bytes = CIFAR[name]

    def rows(archive: tarfile.TarFile, files: list[str]) -> Split:
        parts = []
        for file in files:
            member = archive.extractfile(f"{folder}/{file}")
            assert member is not None
            parts.append(np.frombuffer(member.read(), np.uint8).reshape(-1, label_bytes + 3072))
        records = np.concatenate(parts)
        images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), records[:, label_bytes - 1].astype(np.int32))

    with _clear_error(name, path), tarfile.open(path) as archive:
        return rows(archive, train), rows(archive, [test])


def _mnist(name: str, paths: list[Path]) -> tuple[Split, Split]:
    """The idx files: a header of 16 bytes before images, of 8 before labels."""
    with _clear_error(name, paths[0].parent):
        raw = [gzip.decompress(path.read_bytes()) for path in paths]
        images = [np.frombuffer(raw[i], np.uint8, offset=16).reshape(-1, 28, 28, 1) for i in (0, 2)]
        labels = [np.frombuffer(raw[i], np.uint8, offset=8).astype(np.int32) for i in (1, 3)]
    return Split(images[0], labels[0]), Split(images[1], labels[1])


@contextlib.contextmanager
def _clear_error(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        message = f"data.name={name}: {path} cannot be read ({error}); delete it to have it fetched again"
        raise SettingsError(message) from None


def _digits() -> Split:
    """scikit-learn's 1797 handwritten 8x8 digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SettingsError("data.name=digits needs scikit-learn: pip install scikit-learn") from None
    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Split(images, bunch.target.astype(np.int32))


def _npz(path: Path) -> tuple[Split, Split]:
    """A user's own images: x_train, y_train, x_test, y_test."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except Exception as error:  # noqa: BLE001  a damaged zip can raise anything; nothing in it is executed
        raise SettingsError(f"data.name: cannot read x_train y_train x_test y_test from {path}: {error}") from None
    splits = []
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise SettingsError(
                f"data.name: {path} needs uint8 images [n, h, w, c] and labels [n]; x_{part} is {images.dtype}"
                f"{list(images.shape)}, y_{part} is {list(labels.shape)}"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise SettingsError(f"data.name: {path} needs whole numbers as labels; y_{part} is {labels.dtype}")
        if not images.size or labels.min() < 0 or labels.max() >= 2**31:
            raise SettingsError(
                f"data.name: {path} needs at least one image, and labels from 0; look at x_{part}, y_{part}"
            )
        splits.append(Split(images, labels.astype(np.int32)))
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        shapes = " and ".join(str(list(s.images.shape[1:])) for s in splits)
        raise SettingsError(f"data.name: {path}: training and test images have different shapes, {shapes}")
    return splits[0], splits[1]
