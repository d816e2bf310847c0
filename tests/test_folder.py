"""Files of images: folders of classes, what a picture may be, sets that are prepared, arrays under other names."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bend_jax.checks import SettingsError
from bend_jax.data import images, out_of_distribution, sources, splits
from bend_jax.data.sources import Data

COLOUR = Data(validation=0.25, mean=(0.5,) * 3, std=(0.2,) * 3)
GREY = replace(COLOUR, mean=(0.5,), std=(0.2,))
STRIPES = np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[:, None], 8, axis=1)  # 8x8, dark above


def put(path: Path, pixels: np.ndarray = STRIPES, **options: Any) -> None:
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def tree(root: Path, counts: dict[str, int]) -> Path:
    """A folder with so many PNG images in each folder, each with a value of its own."""
    for number, (folder, count) in enumerate(counts.items()):
        for i in range(count):
            put(root / folder / f"{i}.png", np.full((4, 4), 20 * number + i, np.uint8))
    return root


def read(root: Path, settings: Data = GREY, **changes: Any) -> tuple[Any, Any]:
    """Training and test images of a folder."""
    return sources.read(replace(settings, name=f"folder:{root}", **changes))


def refused(settings: Data) -> str:
    """The one line that loading ends in."""
    with pytest.raises(SettingsError) as error:
        splits.load(settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_with_train_and_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are places among the sorted names of the training folders, also where the test images lack one; hidden
    files, other files and other folders are no images; folders inside a class belong to it; ~ is the home."""
    root = tree(tmp_path / "home" / "own", {"train/b": 2, "train/a/x": 3, "train/c": 1, "test/c": 2, "other/d": 1})
    for name in (".hidden.png", "note.txt"):
        (root / "train" / "a" / name).write_text("no image")
    (root / "train" / ".cache").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    train, test = sources.read(replace(GREY, name="folder:~/own"))
    assert test is not None
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert train.images[:, 0, 0, 0].tolist() == [20, 21, 22, 0, 1, 40]
    assert (test.labels.tolist(), test.images[:, 0, 0, 0].tolist()) == ([2, 2], [60, 61])
    assert train.images.shape == (6, 4, 4, 1)


def test_a_folder_of_classes_is_split_by_a_setting(tmp_path: Path) -> None:
    """One level of folders; also where one of the classes is called train."""
    root = tree(tmp_path, {"train": 20, "plane": 20})
    found = splits.load(replace(GREY, name=f"folder:{root}", test=0.25))
    assert [len(part.labels) for part in (found.train, found.validation, found.test)] == [22, 8, 10]
    assert np.bincount(found.test.labels).tolist() == [5, 5]


@pytest.mark.parametrize("words", ["Train Test", "training testing", "TRAIN VAL", "Training Validation", "train valid"])
def test_usual_names_of_splits(words: str, tmp_path: Path) -> None:
    """In any case; a line says which classes and images were found, and where."""
    train, test = words.split()
    root = tree(tmp_path, {f"{train}/cat": 9, f"{train}/dog": 8, f"{test}/cat": 2, f"{test}/dog": 3, "other/x": 1})
    found = splits.load(replace(GREY, name=f"folder:{root}"))
    assert found.num_classes == 2
    assert np.bincount(found.test.labels).tolist() == [2, 3]
    line = f"2 classes: cat, dog; 13 training, 4 validation, 5 test images (of {train} and {test})"
    assert found.notes[0] == line


def test_without_test_images_of_its_own_a_line_says_where_they_are_from(tmp_path: Path) -> None:
    """Of the folder train, of a folder of classes and of arrays; of many classes the first."""
    root = tree(tmp_path / "whole", {f"Train/{name}": 8 for name in "abcdefg"})
    line = splits.load(replace(GREY, name=f"folder:{root}")).notes[0]
    assert (
        line
        == "7 classes: a, b, c, d, e and 2 more; 21 training, 7 validation, 28 test images (data.test=0.5 of Train)"
    )
    assert splits.load(replace(GREY, name=f"folder:{root}/Train"), dry=True).notes[0] == line
    np.savez(tmp_path / "own.npz", X=PIXELS, y=CLASSES)
    line = splits.load(replace(GREY, name=f"npz:{tmp_path}/own.npz")).notes[0]
    assert line == "3 classes: 0 to 2; 4 training, 2 validation, 6 test images (data.test=0.5 of all)"


SPLITS = {
    "two trainings": ({"Train/a": 2, "train/a": 2, "test/a": 1}, "has both Train and train: leave one"),
    "two tests": ({"train/a": 2, "test/a": 2, "testing/a": 1}, "has both test and testing: leave one"),
    "no classes": ({"train": 2, "test": 2}, "has test, train, named like the parts of a set, and no folder train with"),
    "a test among classes": ({"cat": 2, "dog": 2, "Test/cat": 1}, "has Test, named like"),
    "validation alone": ({"cat": 2, "validation": 2}, "has validation, named like"),
    "nothing but train": ({"training": 2}, "has training, named like"),
    "splits within classes": ({"cat/train": 2, "cat/test": 2, "dog/train": 1}, "cat holds test, train, named like"),
    "a folder too many": ({"set/Training/a": 2, "set/Testing/a": 1}, "give data.name=folder:"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_never_taken_for_classes(name: str, tmp_path: Path) -> None:
    """What may be meant is asked; a class of such a name may lie in the training folder."""
    counts, message = SPLITS[name]
    assert message in refused(replace(GREY, name=f"folder:{tree(tmp_path, counts)}"))
    root = tree(tmp_path / "inside", {"train/test": 4, "train/train": 4, "test/test": 1})
    assert read(root)[1].labels.tolist() == [0]


def test_validation_images_are_the_test_images_where_there_are_no_others(tmp_path: Path) -> None:
    """train/ and val/, as ImageNet's folders are; Tiny-ImageNet's have a file with the classes, by its name too."""
    root = tree(tmp_path / "plain", {"train/a": 2, "train/b": 2, "val/b": 3})
    assert read(root)[1].labels.tolist() == [1, 1, 1]
    tiny = tree(tmp_path / "tiny-imagenet-200", {"train/n1/images": 2, "train/n2/images": 2, "test/images": 3})
    tree(tiny, {"val/images": 3})
    rows = [f"{i}.png\t{name}\t0\t0\t62\t62" for i, name in enumerate(("n2", "n1", "n2"))]
    (tiny / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    for settings in (Data(name=f"folder:{tiny}"), Data(name="tiny_imagenet", dir=str(tmp_path))):
        train, test = sources.read(settings)
        assert test is not None
        assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 1], [1, 0, 1])
        assert test.images.shape == (3, 4, 4, 3)


def exif(orientation: int) -> Image.Exif:
    """The data that say how a camera was held."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def palette(with_alpha: bool) -> bytes:
    """STRIPES as a PNG of a palette."""
    picture = Image.fromarray(STRIPES).quantize(256)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **({"transparency": bytes(range(256))} if with_alpha else {}))
    return buffer.getvalue()


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """As the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


ALPHA = np.stack([STRIPES] * 3 + [STRIPES.T], axis=-1)
PICTURES = {  # each is STRIPES
    "grey": encoded(STRIPES),
    "colour": encoded(np.stack([STRIPES] * 3, axis=-1)),
    "alpha": encoded(ALPHA),
    "grey with alpha": encoded(ALPHA[..., 2:]),
    "palette": palette(False),
    "palette with alpha": palette(True),
    "16 bits": encoded(STRIPES.astype(np.uint16) * 257),
    "16 bits of TIFF": encoded(STRIPES.astype(np.uint16) * 257, "TIFF"),
    "PGM": encoded(STRIPES, "PPM"),
    "BMP": encoded(STRIPES, "BMP"),
    "WebP": encoded(np.stack([STRIPES] * 3, axis=-1), "WEBP", lossless=True),
    "turned": encoded(np.rot90(STRIPES, 1), "TIFF", exif=exif(6)),
    "upside down": encoded(STRIPES[::-1], exif=exif(3)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PICTURES)
def test_whatever_a_picture_is_its_pixels_come_out(name: str, channels: int) -> None:
    """Upright, 8 bits, grey or colour."""
    found = images.decode(io.BytesIO(PICTURES[name]), channels, 0)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.repeat(STRIPES[..., None], channels, axis=2))


def test_jpeg_and_colours() -> None:
    """JPEG is near what it was; CMYK is colour; grey is the luminance of colours."""
    jpeg = images.decode(io.BytesIO(encoded(np.stack([STRIPES] * 3, axis=-1), "JPEG", quality=95)), 3, 0)
    assert np.abs(jpeg.astype(int) - STRIPES[..., None]).mean() < 2
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    buffer = io.BytesIO()
    Image.fromarray(red).convert("CMYK").save(buffer, "TIFF")
    np.testing.assert_array_equal(images.decode(io.BytesIO(buffer.getvalue()), 3, 0), red)
    assert images.decode(io.BytesIO(encoded(red)), 1, 0)[0, 0, 0] == 76  # 0.299 of 255


def test_the_short_side_is_resized_and_the_centre_cut_out(tmp_path: Path) -> None:
    """12x24 pixels become 6x12 by means of boxes, of which columns 3 to 8 are left; the same of arrays. Without the
    setting pictures of different sizes are refused, with a name and size of both."""
    wide = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 12, axis=0)
    expected = np.repeat(np.arange(5, 240, 20)[None, 3:9], 6, axis=0)
    for name, pixels in (("wide", wide), ("tall", wide.T)):
        put(tmp_path / "a" / f"{name}.png", pixels)
        put(tmp_path / "b" / f"{name}.png", pixels)
    train, _ = read(tmp_path, resize=6)
    for image, pixels in zip(train.images, (expected.T, expected) * 2, strict=True):  # "tall" is before "wide"
        np.testing.assert_allclose(image[..., 0], pixels, atol=3)
    np.testing.assert_array_equal(images.resized("own", np.stack([wide] * 2)[..., None], 6)[0], train.images[1])
    said = refused(replace(GREY, name=f"folder:{tmp_path}"))
    for part in ("12x24 (", "tall.png) and 24x12 (", "wide.png)", "--config.data.resize="):
        assert part in said


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    """The path of the first, why, and how many more there are, of all parts of the folder."""
    root = tree(tmp_path, {"train/a": 3, "train/b": 2, "test/a": 2})
    whole = encoded(np.tile(STRIPES, (8, 8)), "JPEG")
    (root / "train" / "a" / "1.png").write_bytes(whole[: len(whole) // 2])
    said = refused(replace(GREY, name=f"folder:{root}"))
    assert f"an image cannot be decoded: {root}/train/a/1.png (image file is truncated" in said
    assert "more" not in said
    (root / "train" / "b" / "0.png").write_text("no image")
    (root / "test" / "a" / "1.png").write_bytes(b"")
    said = refused(replace(GREY, name=f"folder:{root}"))
    assert "train/a/1.png" in said
    assert "and 2 more of 7" in said
    float_tiff = encoded(np.ones((4, 4), np.float32), "TIFF")
    for part in ("train/a/1.png", "train/b/0.png", "test/a/1.png"):
        (root / part).write_bytes(float_tiff)
    assert "fractions of no known range), and 2 more of 7" in refused(replace(GREY, name=f"folder:{root}"))


def test_a_size_that_no_memory_holds_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long, thin picture; of all images of an .npz together."""
    root = tree(tmp_path / "own", {"a": 4, "b": 4})
    arrays = {"X": np.zeros((8, 4, 4, 1), np.uint8), "y": np.arange(8) % 2}
    np.savez(tmp_path / "own.npz", **arrays)
    put(root / "a" / "0.png", np.zeros((1, 10_000), np.uint8))
    assert "10000x1 pixels become 1000000x100" in refused(replace(GREY, name=f"folder:{root}", resize=100))
    monkeypatch.setattr(images, "free_memory", lambda: 159_999)
    monkeypatch.setattr(images, "by_plane", lambda *_: pytest.fail("images were made"))
    said = refused(replace(GREY, name=f"npz:{tmp_path / 'own.npz'}", resize=100))
    assert "8 images of 100x100x1 bytes are 8e-05 GB" in said


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what they need: 8 images of 100x100 grey pixels, twice."""
    root = tree(tmp_path, {"a": 4, "b": 4})
    settings = replace(GREY, name=f"folder:{root}", resize=100)
    monkeypatch.setattr(images, "free_memory", lambda: 160_000)
    assert len(splits.load(settings).train.labels) == 3
    monkeypatch.setattr(images, "free_memory", lambda: 159_999)
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("an array was made"))
    said = refused(settings)
    assert "8 images of 100x100x1 bytes are 8e-05 GB as one array, twice that while" in said
    assert "data.resize" in said
    monkeypatch.undo()
    free = images.free_memory()
    assert free is None or free > 2**20


def test_a_class_with_one_image_trains_and_what_is_missing_is_said(tmp_path: Path) -> None:
    """Its image is never held out, whatever is asked; the other splits are told to lack it."""
    root = tree(tmp_path, {"a": 12, "b": 12, "rare": 1})
    for share, sizes in ((0.1, [21, 2, 2]), (0.5, [7, 6, 12])):
        found = splits.load(replace(GREY, name=f"folder:{root}", test=share, validation=share))
        assert (found.train.labels == 2).sum() == 1
        assert found.notes[1:3] == tuple(
            f"the {name} split has no image of class 2 (rare)" for name in ("validation", "test")
        )
        assert found.num_classes == 3
        assert [len(part.labels) for part in found[:3]] == sizes
    assert "the validation split has no image" in refused(
        replace(GREY, name=f"folder:{tree(tmp_path / 'ones', dict.fromkeys('abc', 2))}", validation=0.01)
    )


@pytest.mark.parametrize(("sizes", "count"), [((5, 3, 1, 1), 6), ((1, 1, 1, 2), 4), ((100, 1), 50), ((7,), 7)])
def test_one_image_of_each_class_stays(sizes: tuple[int, ...], count: int) -> None:
    """As many are held out as were asked for, or as there are beside these."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    held = splits.held_out(np.random.default_rng(0), labels, count)
    assert held.sum() == min(count, len(labels) - len(sizes))
    assert set(labels[~held]) == set(range(len(sizes)))


def test_folders_that_do_not_match_are_refused(tmp_path: Path) -> None:
    """Classes of the test images that nothing is trained on, and folders without an image."""
    root = tree(tmp_path / "more", {"train/a": 1, "train/b": 1, "test/dog": 1, "test/b": 1})
    assert "test has classes that" in (said := refused(replace(GREY, name=f"folder:{root}")))
    assert said.endswith("lacks: dog")
    root = tree(tmp_path / "empty", {"a": 1, "b": 1})
    (root / "z").mkdir()
    assert "in the folders of classes z of" in refused(replace(GREY, name=f"folder:{root}"))
    two = replace(COLOUR, name=f"folder:{root}", mean=(0.5, 0.5), std=(1.0, 1.0))
    assert "data.mean has 2 numbers" in refused(two)


def test_a_folder_as_another_set_at_test_time(tmp_path: Path) -> None:
    """Of any sizes: in that of the test images. The folder that the run is about is refused, however it is written."""
    put(tmp_path / "other" / "a" / "wide.png", np.repeat(STRIPES, 3, axis=1))
    put(tmp_path / "other" / "b" / "tall.png", np.repeat(STRIPES, 2, axis=0))
    test = np.zeros((2, 8, 8, 1), np.uint8)
    name = f"folder:{tmp_path / 'other'}"
    found = out_of_distribution.load_others(replace(GREY, name="digits"), name, test)
    np.testing.assert_array_equal(found[name][0, ..., 0], STRIPES)
    own = replace(GREY, name=f"folder:{tmp_path}/x/../other")
    with pytest.raises(SettingsError, match="is the data set that the run is about"):
        out_of_distribution.load_others(own, name, test)


# arrays

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 6), np.uint8)
CLASSES = np.arange(12) % 3
KEYS = {
    "x_train y_train x_test y_test": True,
    "X_train Y_train X_test Y_test": True,
    "train_images train_labels test_images test_labels": True,
    "train_images train_labels val_images val_labels": True,
    "train_x train_y valid_x valid_y": True,
    "images labels": False,
    "X y": False,
    "data target": False,
}


@pytest.mark.parametrize("names", KEYS)
def test_usual_names_of_arrays(names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey images may have no axis of channels, and labels one too many, as MedMNIST's have."""
    monkeypatch.setenv("HOME", str(tmp_path))
    arrays = dict(zip(names.split(), [PIXELS, CLASSES[:, None]] * 2, strict=False))
    np.savez(tmp_path / "own.npz", other=np.zeros(3), **arrays)
    train, test = sources.read(Data(name="npz:~/own.npz"))
    assert (test is not None) == KEYS[names]
    for split in (train, test or train):
        np.testing.assert_array_equal(split.images, PIXELS[..., None])
        np.testing.assert_array_equal(split.labels, CLASSES)


def test_medmnists_own_test_images_are_taken(tmp_path: Path) -> None:
    """Its validation images are none of ours, which come out of the training images."""
    parts = ("train", "val", "test")
    arrays = {f"{part}_images": PIXELS + i for i, part in enumerate(parts)}
    np.savez(tmp_path / "own.npz", **arrays, **{f"{part}_labels": CLASSES[:, None] for part in parts})
    _, test = sources.read(Data(name=f"npz:{tmp_path}/own.npz"))
    assert test is not None
    np.testing.assert_array_equal(test.images[..., 0], PIXELS + 2)


ARRAYS = {
    "twice the same": ({"X": PIXELS, "x": PIXELS, "y": CLASSES}, "has both X and x"),
    "no labels": ({"images": PIXELS}, "images without labels (y); it holds images"),
    "other names": ({"a": PIXELS, "b": CLASSES}, "which holds a, b; an .npz with x_train"),
    "several labels": ({"X": PIXELS, "y": np.zeros((12, 14), int)}, "labels [n] or [n, 1]"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    """In one line."""
    arrays, message = ARRAYS[name]
    np.savez(tmp_path / "own.npz", **arrays)
    assert message in refused(Data(name=f"npz:{tmp_path}/own.npz"))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_with_channels_first_are_told_apart(channels: int, tmp_path: Path) -> None:
    """The way out is to transpose them, here and where they are another set, and no mean of as many numbers."""
    np.savez(tmp_path / "own.npz", X=np.zeros((12, channels, 5, 6), np.uint8), y=CLASSES)
    for settings in (GREY, COLOUR):
        said = refused(replace(settings, name=f"npz:{tmp_path}/own.npz"))
        assert f"are [12, {channels}, 5, 6]: these look like [n, c, h, w]" in said
        assert "transpose(0, 2, 3, 1)" in said
        assert "config.data.mean" not in said
        test = np.zeros((2, 8, 8, len(settings.mean)), np.uint8)
        with pytest.raises(SettingsError, match=r"look like \[n, c, h, w\]"):
            out_of_distribution.load_others(replace(settings, name="digits"), f"npz:{tmp_path}/own.npz", test)
    assert not images.planes_first(np.zeros((12, 3, 3, 3), np.uint8))
    assert not images.planes_first(np.zeros((12, 64, 64, 13), np.uint8))


def test_a_side_that_is_too_long_is_the_settings_fault_and_not_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before an image is decoded; one image that no memory is left for is named as that."""
    with pytest.raises(SettingsError, match=r"resize must be .*8192\]; got 20000"):
        Data(resize=20_000)
    root = tree(tmp_path, {"a": 4, "b": 4})
    with monkeypatch.context() as patched:
        patched.setattr(images, "free_memory", lambda: 10**6)
        patched.setattr(images, "decode", lambda *_: pytest.fail("an image was decoded"))
        assert "of 5000x5000x1 bytes are 0.2 GB" in refused(replace(GREY, name=f"folder:{root}", resize=5000))

    def decode(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(images, "decode", decode)
    assert "0.png (it does not fit into memory: take a smaller" in refused(replace(GREY, name=f"folder:{root}"))


def test_a_damaged_npz_is_called_damaged(tmp_path: Path) -> None:
    """Cut off, and with a byte changed."""
    np.savez(tmp_path / "own.npz", X=PIXELS, y=CLASSES)
    content = (tmp_path / "own.npz").read_bytes()
    for damaged in (content[:200], content[:150] + b"?" + content[151:]):
        (tmp_path / "own.npz").write_bytes(damaged)
        assert "own.npz is damaged or no .npz" in refused(Data(name=f"npz:{tmp_path}/own.npz"))


# what a dry run may do


def test_a_dry_run_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the sizes of the release, and a note; a damaged archive is one, too, that a run downloads again."""
    import pooch

    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("a download"))
    settings = replace(GREY, name="mnist", dir=str(tmp_path))
    found = splits.load(settings, dry=True)
    assert [len(part.labels) for part in found[:3]] == [55_000, 5_000, 10_000]
    assert found.train.images.shape[1:] == (28, 28, 1)
    (note,) = found.notes
    assert "train-images-idx3-ubyte.gz is not there: a run downloads it; its sizes are those of the release" in note
    others = out_of_distribution.load_others(settings, "fashion_mnist", found.test.images, dry=True)
    assert [len(other) for other in others.values()] == [10_000]
    place = tmp_path / "downloads" / "bend_jax" / "mnist" / "train-images-idx3-ubyte.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half of it")
    assert "is damaged: a run downloads it again" in sources.absent(settings)


def test_a_damaged_archive_is_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be downloaded again."""
    import pooch

    def retrieve(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    place = tmp_path / "downloads" / "bend_jax" / "cifar10" / "cifar-10-binary.tar.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half of it")
    said = refused(Data(name="cifar10", dir=str(tmp_path)))
    assert f"{place} is damaged: its md5 sum is not the release's, and http" in said
    assert "(no network)" in said
