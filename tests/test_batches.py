"""Data in batches: the same checkpoints as from arrays, read once, in the memory that was stated."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import batches
from bend_jax.checks import SettingsError
from bend_jax.collect import frozen_features
from bend_jax.subset import select
from bend_jax.training import Callbacks
from tests.problems import blobs, blobs_apply

N, SIZE = 70, 20
SETTINGS = bend_jax.Trajectory(k=2, batch=16, lr=0.1)


def fit(*data: Any, **changes: Any) -> bend_jax.Ensemble:
    """Two epochs of the head."""
    given: dict[str, Any] = {"subset": "head", "collect": SETTINGS, "generate": bend_jax.Identity(), "members": 2}
    _, images, labels = blobs(N)
    return bend_jax.fit(
        blobs_apply, blobs(N)[0], *data, **given | {"validation": (images[::-1], labels[::-1])} | changes
    )


class Loader:
    """Batches that are counted as they are read; the last one is smaller."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return -(-N // SIZE)

    def __iter__(self) -> Iterator[Any]:
        _, images, labels = blobs(N)
        for begin in range(0, N, SIZE):
            self.read += 1
            yield images[begin : begin + SIZE], labels[begin : begin + SIZE]


def lines_of(memory: int) -> tuple[list[str], Callbacks]:
    """What is said, and callbacks with so much memory that say it."""
    lines: list[str] = []
    return lines, Callbacks(memory=memory, say=lines.append)


def test_batches_give_the_checkpoints_of_arrays_and_are_read_once() -> None:
    """On the device and from the host's memory, from a loader and from what can be iterated but once; the memory is
    stated before, and again where it is not enough. 8 floats an image are 32 bytes, 70 images 2,240."""
    expected = fit(*blobs(N)[1:]).checkpoints.vectors
    loader = Loader()
    lines, callbacks = lines_of(10_000)
    np.testing.assert_allclose(fit(loader, callbacks=callbacks).checkpoints.vectors, expected, atol=1e-5)
    assert loader.read == 1 + len(loader)  # a look at the first, then all
    assert lines == [
        "frozen features: 32 B an image, 2.5 KiB for 4 batches of 20; 9.766 KiB on the device, enough for 312 images"
    ]
    lines, callbacks = lines_of(2_200)
    found = fit(iter(Loader()), callbacks=callbacks).checkpoints.vectors
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(lines) == 2
    assert lines[1].startswith(
        "the frozen features of 70 images take 2.188 KiB and 2.148 KiB are allowed on the device"
    )


def test_streaming_says_so_and_gives_the_same() -> None:
    """Arrays whose features do not fit: the frozen part runs in every step, at what cost."""
    lines, callbacks = lines_of(2_200)
    fit(*blobs(N)[1:], callbacks=callbacks)
    (line,) = lines
    assert "of 70 images take 2.188 KiB and 2.148 KiB are allowed: they are computed anew in every step" in line
    assert float(line.split("about ")[1].split(" times")[0]) > 1


def test_views_of_batches_are_told_their_index() -> None:
    """View i of every image is what the network makes of view i, and keys are told apart by image and view."""
    variables, images, labels = blobs(N)
    model, subset = bend_jax.Model(blobs_apply), select(variables, ["head"])
    settings, key = bend_jax.Trajectory(k=2, batch=16, views=3), jax.random.key(0)

    def view(keys: Any, x: Any, index: Any) -> Any:
        noise = jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)
        return x + 10 * index + noise

    def read(view: Any) -> Any:
        seen = batches.look(Loader())
        return batches.read(model, variables, subset, seen, view, settings, key, Callbacks(), lambda items, *_: items)

    cut, examples = read(lambda keys, x, index: x * (1 + index))
    source = frozen_features.prepare(cut, variables, subset, examples, key, settings, Callbacks())
    assert "cache" not in source.data  # there is one copy of the features,
    assert source.cache_bytes == 3 * N * 32  # which counts
    np.testing.assert_array_equal(examples.labels, labels)
    for index in range(3):
        logits = cut.apply(variables, examples.view(None, examples.images, index))
        np.testing.assert_allclose(logits, blobs_apply(variables, images * (1 + index)), atol=1e-5)
    images_alone = bend_jax.Model(lambda v, x: x @ v["params"]["w"])
    model, variables, subset = images_alone, {"params": {"w": jnp.eye(5)}}, bend_jax.Subset(("params.w",), ((5, 5),))
    _, examples = read(view)
    (kept,) = (np.asarray(x).reshape(N, 3, 5) for x in examples.images)
    noise = kept - images[:, None] - 10 * np.arange(3)[None, :, None]
    np.testing.assert_allclose(noise, noise[:, :, :1] * np.ones(5), atol=1e-5)
    assert len(np.unique(noise[:, :, 0].round(4))) > 0.98 * N * 3


def second(images: Any = None, labels: Any = None) -> list[Any]:
    """Two batches, the second with other images or labels."""
    first = blobs(N)[1][:20], blobs(N)[2][:20]
    return [first, (first[0] if images is None else images, first[1] if labels is None else labels)]


class Moody:
    """A loader that yields other shapes the second time."""

    def __init__(self) -> None:
        self.times = 0

    def __iter__(self) -> Iterator[Any]:
        self.times += 1
        width = 4 + (self.times == 1)
        return iter([(np.ones((20, width), np.float32), np.arange(20) % 3)])


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        (
            second(np.zeros((20, 4), np.float32)),
            {},
            r"batch 1 of the images: every image must be as those of the first batch, float32\[5\]; float32\[4\] came",
        ),
        (Moody(), {}, r"batch 0 of the images: .*float32\[5\]; float32\[4\] came"),
        (second(np.zeros((20, 5), np.uint8)), {}, r"float32\[5\]; uint8\[5\] came"),
        (second(labels=np.full(20, 3)), {}, "batch 1 of the images: labels go from 3 to 3; apply gives 3 classes"),
        (second(labels=np.full((20, 3), 1 / 3)), {}, "labels have 2 axes, those of the first batch 1"),
        (second(labels=np.zeros(19, int)), {}, "batch 1 of the images: there are 20 images and 19 labels"),
        ([], {}, "the iterable of batches is empty"),
        ([blobs(N)[1]], {}, r"images are given as \(images, labels\); got ndarray"),
        (Loader(), {"validation": None, "unseen": True}, "batches are read once, and none are kept"),
        (
            Loader(),
            {
                "collect": bend_jax.Trajectory(k=2, batch=16, statistics="drift"),
                "train_apply": lambda v, x, key: (blobs_apply(v, x), v),
            },
            "trajectory runs the whole network .*: give it arrays",
        ),
        (Loader(), {"collect": bend_jax.Boosting(k=2, batch=16), "augment": lambda keys, x: x}, "leave augment out"),
        (Loader(), {"collect": bend_jax.Trajectory(k=2, batch=99)}, "batch=99 is more than the 70 training images"),
    ],
)
def test_batches_that_do_not_fit_are_told(given: Any, changes: dict[str, Any], message: str) -> None:
    """By the number of the batch; what batches cannot be used for is told before they are read."""
    with pytest.raises(SettingsError, match=message) as error:
        fit(given, **changes)
    assert "\n" not in str(error.value)
