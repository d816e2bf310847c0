"""Augmentation: each change of TrivialAugment against Pillow's, boxes, mirror images by turns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from bend_jax.checks import SettingsError
from bend_jax.data import augment, trivial_augment
from bend_jax.data.sources import Data

PLAIN = {"crop": 0, "flip": False, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # a view is then the pixels themselves


def picture(side: int = 12) -> np.ndarray:
    """Smooth colours with some noise, not in all values."""
    y, x = np.mgrid[:side, :side] / side
    noise = np.random.default_rng(0).normal(0, 12, (side, side, 3))
    return np.clip(np.stack([40 + 150 * x, 20 + 120 * y, 200 - 90 * x * y], axis=-1) + noise, 5, 230).astype(np.uint8)


def moved(*numbers: float) -> Callable[[Any], Any]:
    """Pillow's affine map of output to input coordinates."""
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, numbers)


STRENGTH = 0.5
PILLOW: dict[str, Callable[[Any], Any]] = {
    "shear x": moved(1, 0.495, 0, 0, 1, 0),
    "shear y": moved(1, 0, 0, 0.495, 1, 0),
    "move x": moved(1, 0, 16, 0, 1, 0),
    "move y": moved(1, 0, 0, 0, 1, 16),
    "turn": lambda image: image.rotate(-67.5),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.495),
    "colour": lambda image: ImageEnhance.Color(image).enhance(1.495),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.495),
    "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(1.495),
    "none": lambda image: image,
    "posterize": lambda image: ImageOps.posterize(image, 5),
    "solarize": lambda image: ImageOps.solarize(image, 128),
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
}


@pytest.mark.parametrize("kind", PILLOW)
def test_every_change_is_what_pillow_makes(kind: str) -> None:
    """To one level; a turn differs where a pixel lies on an edge. All but one change something."""
    image = picture(40)
    change = {**trivial_augment.SIGNED, **trivial_augment.UNSIGNED}[kind]
    found = np.asarray(change(jnp.asarray(image), jnp.float32(STRENGTH))).astype(int)
    expected = np.asarray(PILLOW[kind](Image.fromarray(image))).astype(int)
    far = (np.abs(found - expected) > 1).any(axis=-1)
    assert far.mean() < (0.01 if kind == "turn" else 1e-9)
    assert (kind == "none") == bool((found == image).all())


def test_kinds_and_strengths_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is replaced by one that tells its number and its strength: 14 kinds, 31 strengths, two directions
    for the first nine. Counts are within five standard deviations."""

    def telling(number: int) -> Callable[..., Any]:
        return lambda image, s: jnp.stack([jnp.uint8(number), jnp.round(100 + 30 * s).astype(jnp.uint8)])[:, None, None]

    signed, unsigned = list(trivial_augment.SIGNED), list(trivial_augment.UNSIGNED)
    assert len(signed + unsigned) == 14
    monkeypatch.setattr(trivial_augment, "SIGNED", {name: telling(i) for i, name in enumerate(signed)})
    monkeypatch.setattr(trivial_augment, "UNSIGNED", {name: telling(9 + i) for i, name in enumerate(unsigned)})
    n, image = 6200, jnp.zeros((2, 1, 1), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), n)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: trivial_augment.trivial_augment(key, image)))(keys))[..., 0, 0]
    kinds, levels = drawn[:, 0], drawn[:, 1].astype(int) - 100
    for values, count in ((kinds, 14), (abs(levels), 31)):
        expected, sd = n / count, np.sqrt(n / count * (1 - 1 / count))
        assert abs(np.bincount(values, minlength=count) - expected).max() < 5 * sd
    assert levels[kinds >= 9].min() == 0
    negative = (levels[(kinds < 9) & (levels != 0)] < 0).mean()
    assert 0.45 < negative < 0.55


def views(count: int, index: int = 0, image: Any = None, **settings: Any) -> np.ndarray:
    """`count` views of one image, as pixels."""
    view, _ = augment.transforms(Data(**{**PLAIN, **settings}))
    images = jnp.broadcast_to(jnp.asarray(picture() if image is None else image), (count, 12, 12, 3))
    return np.round(np.asarray(jax.jit(view)(jax.random.split(jax.random.key(1), count), images, index))).astype(int)


def test_cutout_takes_a_square_of_the_mean_colour() -> None:
    """About any pixel, so that it is whole only in the middle; everything else stays."""
    image = picture()
    found = views(300, cutout=4, mean=(0.5, 0.25, 0.0), std=(1.0, 1.0, 1.0)) * 0 + views(300, cutout=4)
    gone = (found == 0).all(axis=-1)
    assert ((found == image).all(axis=-1) | gone).all()
    sizes = gone.sum(axis=(1, 2))
    assert set(np.unique(sizes)) >= {16, 8}
    assert sizes.max() == 16
    assert gone.mean(axis=0).min() > 0.01  # every pixel at some time


def test_cutout_fills_with_the_mean() -> None:
    """Which is 0 once it is normalised."""
    view, _ = augment.transforms(Data(crop=0, flip=False, cutout=30))
    images = jnp.broadcast_to(jnp.asarray(picture()), (8, 12, 12, 3))
    assert np.abs(np.asarray(view(jax.random.split(jax.random.key(0), 8), images))).min(axis=(1, 2, 3)).max() < 0.02


def test_erasing_takes_boxes_of_noise() -> None:
    """In the share asked for; 2 to 33% of the image; the rest stays."""
    image = picture()
    found = views(600, erasing=0.5)
    changed = (found != image).any(axis=-1)
    touched = changed.any(axis=(1, 2))
    assert abs(touched.mean() - 0.5) < 0.08
    areas = [rows.sum() * columns.sum() for rows, columns in ((c.any(axis=1), c.any(axis=0)) for c in changed[touched])]
    shares = np.array(areas) / 144
    assert 0.01 < shares.min() < 0.05
    assert 0.28 < shares.max() < 0.4
    noise = found[touched][changed[touched]]
    assert abs(noise.mean() - 127.5) < 4
    assert noise.std() > 65


def test_mirror_images_take_turns() -> None:
    """Epoch by epoch, whatever the key; a half of the images begins mirrored."""
    image = picture()
    first, second, third = (views(5, index, flip=True, flip_alternates=True) for index in (0, 1, 2))
    assert (first == first[0]).all()
    assert (second == first[:, :, ::-1]).all()
    assert (third == first).all()
    other = image.copy()
    other[0, 0, 0] += 1  # one level more: of the other half
    assert (views(1, image=image, flip=True, flip_alternates=True)[0] == image).all() != (
        views(1, image=other, flip=True, flip_alternates=True)[0] == other
    ).all()


def test_a_shifted_image_can_be_continued_by_its_mirror_image() -> None:
    """Then no view has black edges."""
    image = np.full((12, 12, 3), 9, np.uint8)
    assert (views(50, image=image, crop=3) == 0).any()
    assert (views(50, image=image, crop=3, crop_padding="reflect") == 9).all()


def test_turns_without_mirror_images_are_refused() -> None:
    """They would change nothing."""
    with pytest.raises(SettingsError, match="drop one"):
        Data(flip=False, flip_alternates=True)
