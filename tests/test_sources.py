"""Where images come from: prepared sets, archives over HTTP on the loopback, and what is said when there is none."""

import contextlib
import gzip
import hashlib
import http.server
import io
import re
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.checks import SettingsError
from bend_jax.data import archives, augment, prepared, sources
from bend_jax.data.sources import Data

RNG = np.random.default_rng(0)
# a download that breaks off leaves its socket to the garbage collector of the HTTP library
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def cifar_archive(name: str, n: int = 20) -> tuple[bytes, sources.Split, sources.Split]:
    """A release in the binary format with n images a file; returns it with what is in it."""
    folder, train, test, label_bytes = archives.CIFAR[name]
    buffer = io.BytesIO()
    parts = []
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in [*train, test]:
            images = RNG.integers(0, 256, (n, 32, 32, 3), np.uint8)
            labels = np.arange(n) % 10
            coarse = np.zeros((n, label_bytes - 1), np.uint8)
            pixels = images.transpose(0, 3, 1, 2).reshape(n, -1)
            raw = np.concatenate([coarse, labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
            parts.append(sources.Split(images, labels.astype(np.int32)))
    joined = sources.Split(*(np.concatenate([getattr(p, f) for p in parts[:-1]]) for f in ("images", "labels")))
    return buffer.getvalue(), joined, parts[-1]


@contextlib.contextmanager
def server(files: dict[str, bytes], cut: int | None = None) -> Iterator[str]:
    """An HTTP server on the loopback; with `cut` it promises whole files and hangs up after so many bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}/"
        finally:
            listening.shutdown()
            thread.join()


def point(monkeypatch: pytest.MonkeyPatch, name: str, url: str, files: dict[str, bytes]) -> None:
    """Have the set's archives come from this server."""
    found = tuple(archives.Archive(url + file, hashlib.md5(content).hexdigest()) for file, content in files.items())
    monkeypatch.setitem(archives.ARCHIVES, name, found)


def whole_files(folder: Path) -> list[str]:
    """The names of all files below a folder."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_good_archive_is_fetched_once_and_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pixel and label (of CIFAR-100 the fine one) comes out; the second time no server is needed."""
    content, train, test = cifar_archive(name)
    files = {"release.tar.gz": content}
    settings = Data(name=name, dir=str(tmp_path))
    with server(files) as url:
        point(monkeypatch, name, url, files)
        first = sources.read(settings)
    for found in (first, sources.read(settings)):
        for split, expected in zip(found, (train, test), strict=True):
            assert split is not None
            np.testing.assert_array_equal(split.images, expected.images)
            np.testing.assert_array_equal(split.labels, expected.labels)
    assert whole_files(tmp_path) == ["release.tar.gz"]


def test_mnist_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four gzipped idx files, in this order: training images, labels, test images, labels."""
    images, labels = RNG.integers(0, 256, (7, 28, 28, 1), np.uint8), np.arange(7, dtype=np.uint8)
    raw = [b"\0" * 16 + images.tobytes(), b"\0" * 8 + labels.tobytes()]
    files = {f"{i}.gz": gzip.compress(raw[i % 2]) for i in range(4)}
    with server(files) as url:
        point(monkeypatch, "mnist", url, files)
        train, test = sources.read(Data(name="mnist", dir=str(tmp_path), mean=(0.1,), std=(0.3,)))
    assert test is not None
    for split in (train, test):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)


@pytest.mark.parametrize("fault", ["truncated", "wrong checksum", "404", "gone mid-way", "no server"])
def test_a_bad_download_is_one_clear_error_and_leaves_nothing(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the set, the address and what to do; no half-written file stays."""
    content, _, _ = cifar_archive("cifar10")
    served = {"truncated": content[:-100], "wrong checksum": content[:-1] + b"x"}.get(fault, content)
    cut = len(content) // 2 if fault == "gone mid-way" else None
    with server({} if fault == "404" else {"release.tar.gz": served}, cut) as url:
        point(monkeypatch, "cifar10", url, {"release.tar.gz": content})
        error = "" if fault == "no server" else read_error(tmp_path)
    error = error or read_error(tmp_path)
    assert "cifar10" in error
    assert url in error
    assert "TFDS_DATA_DIR" in error
    assert "\n" not in error
    assert whole_files(tmp_path) == []


def read_error(folder: Path) -> str:
    """What reading CIFAR-10 from there raises."""
    with pytest.raises(SettingsError) as raised:
        sources.read(Data(name="cifar10", dir=str(folder)))
    return str(raised.value)


def test_an_archive_of_something_else_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right checksum and no images in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    files = {"release.tar.gz": buffer.getvalue()}
    with server(files) as url:
        point(monkeypatch, "cifar10", url, files)
        assert "delete it to have it fetched again" in read_error(tmp_path)


def test_an_archive_that_expands_to_more_than_its_release_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 20 images, where a release of 19 was announced; of 20 it is read."""
    content, *_ = cifar_archive("cifar10")
    for images, says in ((20, ""), (19, "a file in it has more than the release's 58,387 bytes")):
        monkeypatch.setitem(archives.SIZES, "cifar10", archives.SIZES["cifar10"]._replace(train=images))
        with server({"release.tar.gz": content}) as url:
            point(monkeypatch, "cifar10", url, {"release.tar.gz": content})
            if says:
                assert says in read_error(tmp_path)
            else:
                sources.read(Data(name="cifar10", dir=str(tmp_path)))


def encode(image: np.ndarray) -> io.BytesIO:
    """As PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return io.BytesIO(buffer.getvalue())


def prepare(folder: Path, name: str, shape: tuple[int | None, ...], parts: dict[str, list[dict[str, Any]]]) -> None:
    """Have tensorflow-datasets prepare a set of images [shape] with the features picture, kind and weight, as
    array_record."""
    tfds = pytest.importorskip("tensorflow_datasets")
    kinds = {"picture": tfds.features.Image(shape=shape), "kind": tfds.features.ClassLabel(num_classes=10)}
    features = tfds.features.FeaturesDict({**kinds, "weight": np.float32})

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("picture", "kind"))

    def generate(rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, row in enumerate(rows):
            yield i, {**row, "picture": encode(row["picture"]), "weight": 1.0}

    members: dict[str, Any] = {"VERSION": tfds.core.Version("3.0.2"), "name": name, "pkg_dir_path": folder}
    members |= {"_info": info, "_generate_examples": lambda self, rows: generate(rows)}
    members["_split_generators"] = lambda self, manager: {part: generate(rows) for part, rows in parts.items()}
    kind = type(name, (tfds.core.GeneratorBasedBuilder,), members)
    kind(data_dir=folder, file_format="array_record").download_and_prepare()


def rows_of(split: sources.Split | None) -> set[tuple[bytes, int]]:
    """Its images and their labels, in any order."""
    assert split is not None
    return {(image.tobytes(), int(label)) for image, label in zip(*split, strict=True)}


def test_a_set_that_tensorflow_datasets_prepared_is_read_without_tensorflow(tmp_path: Path) -> None:
    """As array_record, with PNG images; the folder comes from the setting. By its name, as an official set is."""
    images = RNG.integers(0, 256, (30, 32, 32, 3), np.uint8)
    rows = [{"picture": image, "kind": i % 10} for i, image in enumerate(images)]
    prepare(tmp_path, "cifar10", (32, 32, 3), {"train": rows[:20], "test": rows[20:]})
    train, test = sources.read(Data(name="cifar10", dir=str(tmp_path)))
    for split, part in ((train, range(20)), (test, range(20, 30))):
        assert rows_of(split) == {(images[i].tobytes(), i % 10) for i in part}
    assert sources.absent(Data(name="cifar10", dir=str(tmp_path))) == ""


def test_any_prepared_set_of_images(tmp_path: Path) -> None:
    """With pictures of several sizes, whose split validation has the test images where test has no labels; one that is
    damaged, of another version, or misspelt is refused."""
    tall = [np.repeat(RNG.integers(0, 256, (1, 8, 3), np.uint8), n, axis=0) for n in (8, 12, 16, 20)]
    rows = [{"picture": image, "kind": i} for i, image in enumerate(tall)]
    no_label = {"picture": tall[0], "kind": -1}
    prepare(tmp_path, "food101", (None, None, 3), {"train": rows, "validation": rows[1:], "test": [no_label]})
    settings = Data(name="food101", dir=str(tmp_path), resize=8)
    for name in ("food101", "tfds:food101", "tfds:food101:3.0.2"):
        train, test = sources.read(replace(settings, name=name))
        assert rows_of(train) == {(image[:8].tobytes(), i) for i, image in enumerate(tall)}
        assert rows_of(test) == {(image[:8].tobytes(), i) for i, image in enumerate(tall) if i}
    mistakes = {
        "tfds:food101:9.0.0": "version 9.0.0 is not prepared in",
        "tfds:food11": f"not prepared in {tmp_path}/food11 (did you mean 'food101'?); prepared there: food101",
        "oxford_iiit_pet": "prepared there: food101; to prepare it: tensorflow_datasets.builder('oxford_iiit_pet'",
    }
    for name, message in mistakes.items():
        with pytest.raises(SettingsError, match=re.escape(message)):
            sources.read(replace(settings, name=name))
    with pytest.raises(SettingsError, match="the images have different sizes, such as 8x"):
        sources.read(replace(settings, resize=0))
    (shard,) = (tmp_path / "food101" / "3.0.2").glob("*-train*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(SettingsError, match=r"3\.0\.2 is damaged \(.*\): prepare it again"):
        sources.read(settings)


def test_the_newest_version_is_the_one_of_the_largest_number(tmp_path: Path) -> None:
    """10 is after 9; what is unfinished is passed over; one can be named."""
    for version in ("9.1.0", "10.0.0", "2.0.0", "incomplete.AB12CD_11.0.0", "12.0.0.incompleteXY"):
        (tmp_path / "own" / version).mkdir(parents=True)
        (tmp_path / "own" / version / "dataset_info.json").touch()
    (tmp_path / "own" / "11.0.0").mkdir()
    assert prepared.find("own", tmp_path) == tmp_path / "own" / "10.0.0"
    assert prepared.find("own:2.0.0", tmp_path) == tmp_path / "own" / "2.0.0"
    assert prepared.find("own:11.0.0", tmp_path) is None
    with pytest.raises(SettingsError, match=r"there are 10\.0\.0, 2\.0\.0, 9\.1\.0"):
        sources.read(Data(name="tfds:own:3.0.0", dir=str(tmp_path)))
    with pytest.raises(SettingsError, match=r"10\.0\.0 is damaged"):
        sources.read(Data(name="tfds:own", dir=str(tmp_path)))
    with pytest.raises(SettingsError, match=r"unknown data set 'own' \(did you mean 'tfds:own'\?\)"):
        sources.read(Data(name="own", dir=str(tmp_path)))


def test_the_folder_is_the_setting_then_the_environment_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tensorflow-datasets looks for it."""
    monkeypatch.setenv("TFDS_DATA_DIR", "env")
    assert sources.data_dir(Data(dir="own")) == Path("own")
    assert sources.data_dir(Data()) == Path("env")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert sources.data_dir(Data()) == Path.home() / "tensorflow_datasets"


def test_a_turn_by_ninety_degrees_is_exact() -> None:
    """Nearest pixels of a square image land on pixels; small turns leave the middle alone."""
    image = RNG.integers(0, 256, (5, 5, 1), np.uint8)
    turned, tilted = (np.asarray(augment.rotate(jnp.asarray(image), jnp.float32(a)))[..., 0] for a in (np.pi / 2, 0.2))
    assert any(np.array_equal(turned, np.rot90(image[..., 0], k)) for k in (1, 3))
    assert tilted[2, 2] == image[2, 2, 0]


def test_a_prepared_sets_classes_have_names(tmp_path: Path) -> None:
    """In the order of the labels; none where the names are not there."""
    folder = tmp_path / "pets" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    assert prepared.class_names("pets", tmp_path) == prepared.class_names("others", tmp_path) == ()
    (folder / "label.labels.txt").write_text("dog\ncat")
    assert prepared.class_names("pets", tmp_path) == ("dog", "cat")
