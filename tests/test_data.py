"""Data: fixed stratified splits, noise, files of one's own, augmentation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import storage
from bend_jax.checks import SettingsError, settings_json
from bend_jax.data import augment, splits
from bend_jax.data.sources import Data, Split
from bend_jax.run import config
from bend_jax.run.context import network, prepare

DIGITS = Data(name="digits", noise=0.3, validation=1 / 3, crop=1, flip=False, mean=(0.36,), std=(0.37,))


def own(path: Path, **changes: Any) -> Data:
    """An .npz of 40 random images in 4 classes, with some arrays replaced."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (30, 5, 6, 2), np.uint8),
        "y_train": np.arange(30) % 4,
        "x_test": rng.integers(0, 256, (10, 5, 6, 2), np.uint8),
        "y_test": np.arange(10) % 4,
    }
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return Data(name=f"npz:{path}", validation=0.2, mean=(0.5, 0.5), std=(0.25, 0.25))


def test_digits_are_a_third_a_sixth_and_a_half() -> None:
    """1797 images: 599, 300 and 898, each class within one image of its share."""
    pytest.importorskip("sklearn")
    found = splits.load(DIGITS)
    sizes = [len(s.labels) for s in (found.train, found.validation, found.test)]
    assert sizes == [599, 300, 898]
    assert found.num_classes == 10
    share = np.bincount(np.concatenate([s.labels for s in (found.train, found.validation, found.test)])) / 1797
    for split in (found.train, found.validation, found.test):
        assert np.abs(np.bincount(split.labels) - share * len(split.labels)).max() <= 1.5
        assert split.images.dtype == np.uint8
        assert split.images.shape[1:] == (8, 8, 1)


def test_the_split_is_the_same_every_time_and_disjoint() -> None:
    """The seed of a run does not enter; no image is in two splits."""
    pytest.importorskip("sklearn")
    clean = Data(name="digits", validation=1 / 3, mean=(0.3,), std=(0.3,))
    first, again = splits.load(clean), splits.load(clean)
    assert splits.content_digest(first) == splits.content_digest(again)
    rows = [{(i.tobytes(), int(y)) for i, y in zip(*split, strict=True)} for split in first[:3]]
    assert sum(len(r) for r in rows) == len(rows[0] | rows[1] | rows[2])


def test_validation_images_are_taken_from_the_test_images(tmp_path: Path) -> None:
    """For a network that has seen every training image: they are all left for training, and no image is in two splits.
    The default of that setting is in no digest, so that stores of before it was there are reused."""
    settings = replace(own(tmp_path / "own.npz", y_test=np.arange(10) % 2, y_train=np.arange(30) % 2), validation=0.4)
    found = splits.load(replace(settings, init_unseen="test"))
    assert [len(split.labels) for split in (found.train, found.validation, found.test)] == [30, 4, 6]
    test = np.load(tmp_path / "own.npz")["x_test"]
    given = {image.tobytes() for image in test}
    rows = [{image.tobytes() for image in split.images} for split in (found.validation, found.test)]
    assert rows[0] | rows[1] == given
    assert not rows[0] & rows[1]
    assert "init_unseen" not in settings_json(settings)
    assert settings_json(replace(settings, init_unseen="test"))["init_unseen"] == "test"


def test_a_trained_network_needs_unseen_validation_images(tmp_path: Path) -> None:
    """--init without a word on what the network has seen is refused: a temperature fitted on images that it was trained
    on is no temperature."""
    raw = config.defaults()
    raw["backbone"] |= {"name": "resnet18", "widths": (4, 4), "blocks": (1, 1)}
    raw["collect"] |= {"subset": "layer2.0.bn2", "k": 2, "batch": 8}
    raw["base"] |= {"batch": 8}
    raw["data"] |= {"mean": (0.5, 0.5), "std": (0.5, 0.5)}
    dataset = splits.load(own(tmp_path / "own.npz"))
    with pytest.raises(SettingsError, match=r"--init: there is no file or folder resnet18\.pth"):  # before any question
        prepare(config.parse(raw), "", 0, tmp_path, dataset, "resnet18.pth")
    init = network(config.parse(raw).backbone, 4, (5, 6, 2)).init
    assert init is not None
    storage.save_tree(tmp_path / "trained", init(jax.random.key(0)))
    with pytest.raises(SettingsError, match=r"--init: .*--config\.data\.init_unseen=validation .* or =test"):
        prepare(config.parse(raw), "", 0, tmp_path, dataset, str(tmp_path / "trained"))
    raw["data"] |= {"init_unseen": "test"}
    with pytest.raises(SettingsError, match=r"data\.init_unseen=test .* add --init=FILE; to train one instead"):
        prepare(config.parse(raw), "", 0, tmp_path, dataset)


def test_the_base_never_sees_the_unseen_images() -> None:
    """They are a stratified share of the training images; the other splits stay, and an epoch is a pass over both."""
    pytest.importorskip("sklearn")
    clean = Data(name="digits", validation=1 / 3, mean=(0.3,), std=(0.3,))
    whole, cut = splits.load(clean), splits.load(replace(clean, unseen=0.25))
    assert cut.unseen is not None
    assert (len(cut.train.labels), len(cut.unseen.labels), cut.training_images, whole.training_images) == (
        449,
        150,
        599,
        599,
    )
    kept, held, every = (
        sorted((i.tobytes(), int(y)) for i, y in zip(*split, strict=True))
        for split in (cut.train, cut.unseen, whole.train)
    )
    assert sorted(kept + held) == every
    assert np.abs(np.bincount(cut.unseen.labels) - 0.25 * np.bincount(whole.train.labels)).max() <= 1
    assert cut.collected is cut.unseen
    assert whole.collected is whole.train
    np.testing.assert_array_equal(cut.test.images, whole.test.images)
    np.testing.assert_array_equal(cut.validation.images, whole.validation.images)
    moved = cut._replace(unseen=Split(cut.unseen.images, cut.unseen.labels[::-1]))
    assert splits.content_digest(moved) != splits.content_digest(cut)


def test_noise_has_its_size_and_other_noise_another_digest() -> None:
    """On mid-grey pixels, which clipping leaves alone, the standard deviation is the setting's."""
    images = np.full((50, 20, 20, 1), 128, np.uint8)
    noisy = augment.add_noise(np.random.default_rng(0), images, 0.1)
    assert abs(noisy.std() / 255 - 0.1) < 0.002
    pytest.importorskip("sklearn")
    assert splits.content_digest(splits.load(DIGITS)) != splits.content_digest(
        splits.load(Data(**{**vars(DIGITS), "noise": 0.2}))
    )


def test_a_users_own_images(tmp_path: Path) -> None:
    """Test images stay as they are, validation comes out of the training images."""
    settings = own(tmp_path / "mine.npz")
    found = splits.load(settings)
    assert [len(s.labels) for s in (found.train, found.validation, found.test)] == [24, 6, 10]
    assert found.test.labels.tolist() == (np.arange(10) % 4).tolist()
    assert found.num_classes == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((30, 5, 6, 2), np.float32)}, "uint8 images"),
        ({"x_train": np.zeros((30, 5, 6), np.uint8)}, r"different shapes, \[5, 6, 1\] and \[5, 6, 2\]"),
        ({"y_train": np.zeros(29, int)}, "labels"),
        ({"y_test": None}, "y_test"),
        ({"y_train": np.array([{}] * 30, object)}, "cannot read"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Of the wrong type or shape, incomplete, or with pickled objects (which are not executed)."""
    with pytest.raises(SettingsError, match=message):
        splits.load(own(tmp_path / "bad.npz", **changes))


def test_channels_must_fit_the_normalisation(tmp_path: Path) -> None:
    """mean and std have one number a channel."""
    settings = own(tmp_path / "mine.npz")
    with pytest.raises(SettingsError, match="2 channels"):
        splits.load(Data(**{**vars(settings), "mean": (0.5,), "std": (0.5,)}))


def test_the_normalisation_of_a_users_own_images_is_measured(tmp_path: Path) -> None:
    """By channel, as flags that then are silent; so is one within a tenth of the sd, and one of a trained network. The
    error for too few channels has them too."""
    checks = np.indices((4, 4)).sum(axis=0) % 2
    pixels = np.stack([51 * checks, 102 + 102 * checks], axis=-1)  # 0 and 0.2; 0.4 and 0.8
    np.savez(tmp_path / "x.npz", images=np.tile(pixels.astype(np.uint8), (160, 1, 1, 1)), labels=np.arange(160) % 4)
    settings = Data(name=f"npz:{tmp_path / 'x.npz'}", mean=(0.5, 0.5), std=(0.2, 0.2))
    measured = '--config.data.mean="(0.100,0.600,)" --config.data.std="(0.100,0.200,)"'
    (_, note) = splits.load(settings).notes
    assert note.endswith(f"which are {measured}")
    with pytest.raises(SettingsError) as error:
        splits.load(replace(settings, mean=(0.5,), std=(0.5,)))
    assert str(error.value).endswith(measured)
    assert splits.load(replace(settings, mean=(0.1, 0.6), std=(0.1, 0.2))).notes[1:] == ()
    near = replace(settings, mean=(0.109, 0.6), std=(0.100, 0.200))
    assert splits.load(near).notes[1:] == ()
    assert splits.load(replace(near, std=(0.100, 0.222))).notes[1:]
    assert splits.load(replace(settings, init_unseen="validation")).notes[1:] == ()


def test_shifts_move_the_image_by_up_to_crop_pixels_and_fill_with_zeros() -> None:
    """A single bright pixel lands on every place within reach, equally often, and nowhere else."""
    image = np.zeros((7, 7, 1), np.uint8)
    image[3, 3] = 255
    view, _ = augment.transforms(Data(crop=1, flip=False, mean=(0.0,), std=(1.0,)))
    out = np.asarray(view(jax.random.split(jax.random.key(0), 900), jnp.tile(image, (900, 1, 1, 1))))
    counts = (out[..., 0] > 0.5).sum(axis=0)
    assert counts.sum() == 900
    assert counts[2:5, 2:5].min() > 60
    assert counts.sum() == counts[2:5, 2:5].sum()


def test_flips_mirror_half_of_the_images() -> None:
    """Left and right change places, nothing else does."""
    image = np.zeros((2, 3, 1), np.uint8)
    image[0, 0] = 255
    view, _ = augment.transforms(Data(crop=0, flip=True, mean=(0.0,), std=(1.0,)))
    out = np.asarray(view(jax.random.split(jax.random.key(0), 400), jnp.tile(image, (400, 1, 1, 1))))[..., 0]
    assert abs(out[:, 0, 2].mean() - 0.5) < 0.1
    np.testing.assert_array_equal(out[:, 0, 0] + out[:, 0, 2], 1.0)


def test_normalisation_is_by_channel() -> None:
    """(x / 255 - mean) / std."""
    _, plain = augment.transforms(Data(mean=(0.5, 0.0), std=(0.5, 2.0)))
    out = plain(jnp.array([[[[255, 0]]]], jnp.uint8))
    np.testing.assert_allclose(out, [[[[1.0, 0.0]]]], atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(30, int), "at least two classes"),
        (np.arange(30) % 4 * 2, "no image of class 1, 3, 5"),
        (np.where(np.arange(30) == 0, 5, np.arange(30) % 4), "no image of class 4"),
        (np.arange(30) % 4 - 1, "labels from 0"),
        (np.full(30, 9_000_000_000), "labels from 0"),
        (np.linspace(0, 3, 30), "whole numbers"),
    ],
)
def test_labels_must_cover_their_classes(tmp_path: Path, labels: Any, message: str) -> None:
    """At least two of them, counted from 0, each in every split."""
    tests = labels[:10] if labels.max() < 1 else np.arange(10) % 4
    with pytest.raises(SettingsError, match=message):
        splits.load(own(tmp_path / "bad.npz", y_train=labels, y_test=tests))


def test_float_images_and_different_sizes_are_refused(tmp_path: Path) -> None:
    """NaN cannot get in: pixels are bytes. Training and test images have one shape."""
    with pytest.raises(SettingsError, match="uint8 images"):
        splits.load(own(tmp_path / "nan.npz", x_train=np.full((30, 5, 6, 2), np.nan)))
    with pytest.raises(SettingsError, match="different shapes"):
        splits.load(own(tmp_path / "size.npz", x_test=np.zeros((10, 6, 6, 2), np.uint8)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "size.npz").read_bytes()[:500])
    with pytest.raises(SettingsError, match="cannot read"):
        splits.load(Data(name=f"npz:{tmp_path / 'cut.npz'}"))
