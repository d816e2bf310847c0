"""Recipes of the base: rates by layer and by step, averages, mixed minibatches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax import models, recipe
from bend_jax.checks import SettingsError
from bend_jax.models import airbench
from bend_jax.recipe import Base
from bend_jax.training import MIX_KEY, Callbacks, Examples, Model, train_base

VARIABLES = {"params": {"a": {"w": jnp.array([1.0, -2.0])}, "b": {"w": jnp.array([3.0]), "bias": jnp.array([0.5])}}}


def test_rates_rise_and_fall_as_the_schedules_say() -> None:
    """Ten steps an epoch: at the start, in the warm-up, at its end, half way down, at the end."""
    line = recipe.schedule(Base(schedule="linear", epochs=10, warmup=2, lr=0.5), 10)
    np.testing.assert_allclose([line(i) for i in (0, 10, 20, 60, 100)], [0, 0.25, 0.5, 0.25, 0], atol=1e-7)
    cycle = recipe.schedule(Base(schedule="one_cycle", epochs=10, warmup=2, lr=0.5), 10)
    low, last = 0.5 / 25, 0.5 / 250_000
    expected = [low, (0.5 + low) / 2, 0.5, (0.5 + last) / 2, last]
    np.testing.assert_allclose([cycle(i) for i in (0, 10, 20, 60, 100)], expected, rtol=1e-5)


def test_a_factor_multiplies_the_gradient_and_leaves_the_decay() -> None:
    """lr (f g + w decay); 0 moves nothing; the last factor that names a parameter holds."""
    settings = Base(lr=0.1, momentum=0.0, weight_decay=0.5, lr_factors="b:7,b.bias:4,a:0")
    optimizer = recipe.optimizer(settings, 10, VARIABLES)
    params, gradient = VARIABLES["params"], jax.tree.map(jnp.ones_like, VARIABLES["params"])
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    new: Any = optax.apply_updates(params, updates)
    np.testing.assert_allclose(new["a"]["w"], [1, -2])
    np.testing.assert_allclose(new["b"]["w"], [3 - 0.1 * (7 + 1.5)], rtol=1e-6)
    np.testing.assert_allclose(new["b"]["bias"], [0.5 - 0.1 * (4 + 0.25)], rtol=1e-6)


@pytest.mark.parametrize("text", ["a", "a:", ":2", "a:-1", "a:nan", "a:inf", "a:x"])
def test_what_is_no_factor_is_refused(text: str) -> None:
    """By the settings, before anything is read."""
    with pytest.raises(SettingsError, match="NAME:FACTOR"):
        Base(lr_factors=text)


def test_a_factor_of_no_layer_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(SettingsError, match=r"base.lr_factors: .*'c' matches nothing; top-level names: a, b"):
        recipe.factors(Base(lr_factors="c:2"), VARIABLES)


def test_one_cycle_needs_epochs_to_rise_and_to_fall() -> None:
    """Refused at both ends."""
    for warmup in (0, 3):
        with pytest.raises(SettingsError, match=r"warmup must be in \[1, 2\] of 3 epochs"):
            Base(schedule="one_cycle", epochs=3, warmup=warmup)


IMAGES = jnp.broadcast_to(jnp.arange(8.0)[:, None, None, None], (8, 16, 12, 1))  # image i holds i everywhere


def draws(settings: Base, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mixed minibatches [count, 8, 16, 12, 1] and their shares."""
    keys = jax.random.split(jax.random.key(0), count)
    images, shares = jax.jit(jax.vmap(lambda key: recipe.mix(settings, key, IMAGES)))(keys)
    return np.asarray(images), np.asarray(shares)


def test_mixup_blends_by_the_share_of_its_distribution() -> None:
    """Image i becomes s i + (1 - s) (i - 1); Beta(2, 2) has mean 1/2 and variance 1/20."""
    images, shares = draws(Base(mixup=2.0), 2000)
    own, other = np.arange(8), np.roll(np.arange(8), 1)
    expected = shares[:, None] * own + (1 - shares[:, None]) * other
    np.testing.assert_allclose(images, np.broadcast_to(expected[..., None, None, None], images.shape), atol=1e-5)
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 0.05) < 0.005


def test_cutmix_keeps_the_share_of_pixels_that_it_says() -> None:
    """Each pixel is an image's own or the one's before it, in one box alike for all; the shares spread."""
    images, shares = draws(Base(cutmix=1.0), 500)
    is_own = images == np.arange(8)[:, None, None, None]
    is_other = images == np.roll(np.arange(8), 1)[:, None, None, None]
    assert (is_own | is_other).all()
    np.testing.assert_allclose(is_own.mean(axis=(2, 3, 4)), np.repeat(shares[:, None], 8, axis=1), atol=1e-6)
    for box in ~is_own[:, 1, :, :, 0]:
        rows, columns = box.any(axis=1), box.any(axis=0)
        assert box.sum() == rows.sum() * columns.sum()
    assert shares.std() > 0.15
    assert 0.55 < shares.mean() < 0.75  # more than 1/2: what is outside of the image is lost


def test_both_take_turns() -> None:
    """About a half of the minibatches is pasted."""
    images, _ = draws(Base(mixup=1.0, cutmix=1.0), 400)
    is_pasted = (np.abs(images - np.round(images)) < 1e-6).all(axis=(1, 2, 3, 4))
    assert 0.4 < is_pasted.mean() < 0.6


def linear(scale: float = 1.0) -> Model:
    """Logits that are linear in 1x1 images of three channels; beside them a running mean and a counter."""

    def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
        old = variables["stats"]
        stats = {"mean": 0.5 * old["mean"] + 0.5 * jnp.mean(images), "count": old["count"] + 1}
        return images[:, 0, 0] @ variables["params"]["w"], {**variables, "stats": stats}

    def init(key: Any) -> Any:
        stats = {"mean": jnp.float32(0), "count": jnp.int32(0)}
        return {"params": {"w": scale * jax.random.normal(key, (3, 3))}, "stats": stats}

    return Model(lambda variables, images: images[:, 0, 0] @ variables["params"]["w"], train_apply, init)


def trained(settings: Base, images: Any = None) -> tuple[Any, np.ndarray]:
    """(variables, losses) of `linear` on six images."""
    if images is None:
        images = jax.random.normal(jax.random.key(3), (6, 1, 1, 3))
    examples = Examples(images, jnp.arange(6, dtype=jnp.int32) % 3, lambda keys, x, index: x, lambda x: x)
    losses: list[np.ndarray] = []
    callbacks = Callbacks(segment=lambda name, state, new: losses.append(new))
    variables = train_base(linear(), examples, jax.random.key(0), settings, callbacks=callbacks)
    return variables, np.concatenate(losses)


def test_the_average_of_the_steps_is_the_base() -> None:
    """Against trainings of one, two and three steps; BN-like statistics are averaged too, counters are not."""
    recipe_of = {"batch": 6, "lr": 0.5, "milestones": ()}
    steps = [trained(Base(epochs=e, **recipe_of))[0] for e in (1, 2, 3)]
    start = linear().init(jax.random.split(jax.random.key(0), 3)[0])  # pyright: ignore[reportOptionalCall]
    average = [start["params"]["w"], start["stats"]["mean"]]
    for i, one in enumerate(steps, start=1):
        decay = min(0.3, (1 + i) / (10 + i))
        new = (one["params"]["w"], one["stats"]["mean"])
        average = [decay * old + (1 - decay) * x for old, x in zip(average, new, strict=True)]
    found, _ = trained(Base(epochs=3, ema=0.3, **recipe_of))
    np.testing.assert_allclose(found["params"]["w"], average[0], rtol=1e-5)
    np.testing.assert_allclose(found["stats"]["mean"], average[1], rtol=1e-5)
    assert int(found["stats"]["count"]) == 3
    assert not np.allclose(found["params"]["w"], steps[-1]["params"]["w"], rtol=1e-2)


def test_smoothed_targets_reach_the_loss() -> None:
    """Of the first step, in which the weights are known."""
    images = jnp.ones((6, 1, 1, 3))
    weights = linear().init(jax.random.split(jax.random.key(0), 3)[0])["params"]["w"]  # pyright: ignore[reportOptionalCall]
    logp = np.asarray(jax.nn.log_softmax(weights.sum(axis=0)))
    once = {"epochs": 1, "batch": 6, "lr": 0.5}
    plain, smooth = (trained(Base(label_smoothing=s, **once), images)[1][0] for s in (0.0, 0.3))
    assert np.isclose(plain, -logp.mean())  # two images of each class
    uneven = jnp.array([2.0, 1, 1])[None, None, None] * images
    logp = np.asarray(jax.nn.log_softmax(uneven[0, 0, 0] @ weights))
    assert np.isclose(smooth, plain)  # balanced classes: the same mean; one class alone differs, below
    labels = jnp.zeros(6, jnp.int32)
    examples = Examples(uneven, labels, lambda keys, x, index: x, lambda x: x)
    losses: list[np.ndarray] = []
    callbacks = Callbacks(segment=lambda name, state, new: losses.append(new))
    train_base(linear(), examples, jax.random.key(0), Base(label_smoothing=0.3, **once), callbacks=callbacks)
    assert np.isclose(losses[0][0], -(0.7 * logp[0] + 0.3 * logp.mean()))


def test_targets_are_mixed_as_the_images_are() -> None:
    """Two images: s of each one's loss for its own class and the rest for the other's, in either order."""
    images, labels = jnp.array([[2.0, 0, 1], [0, 1, -1]])[:, None, None], jnp.array([0, 2], jnp.int32)
    settings = Base(epochs=1, batch=2, lr=0.5, mixup=1.0)
    examples = Examples(images, labels, lambda keys, x, index: x, lambda x: x)
    losses: list[np.ndarray] = []
    callbacks = Callbacks(segment=lambda name, state, new: losses.append(new))
    train_base(linear(), examples, jax.random.key(0), settings, callbacks=callbacks)
    key_init, _, key_steps = jax.random.split(jax.random.key(0), 3)
    weights = linear().init(key_init)["params"]["w"]  # pyright: ignore[reportOptionalCall]
    mixed, s = recipe.mix(settings, jax.random.fold_in(jax.random.fold_in(key_steps, 0), MIX_KEY), images)
    logp = np.asarray(jax.nn.log_softmax(mixed[:, 0, 0] @ weights))
    own, other = logp[[0, 1], labels], logp[[0, 1], labels[::-1]]
    assert np.isclose(losses[0][0], -(s * own + (1 - s) * other).mean())
    assert not np.isclose(losses[0][0], -own.mean(), rtol=0.01)


def test_mixing_needs_images() -> None:
    """A tree, or vectors, are refused with what to do."""
    with pytest.raises(SettingsError, match="set them to 0"):
        recipe.mix(Base(mixup=1.0), jax.random.key(0), {"a": IMAGES})


# the network that comes with the fast recipe


def airbench_variables(init: Any = None) -> tuple[Any, Any]:
    """(a narrow one, its variables); init: what draws them."""
    net = models.build("airbench94", 3, widths=(30, 4), blocks=(3, 2))
    draw = partial(net.init, images=jnp.zeros((1, 8, 8, 3)))
    return net, (init(draw) if init else draw)(jax.random.key(0))


def test_the_first_layer_whitens_the_patches_of_the_training_images() -> None:
    """Its first half gives uncorrelated outputs of variance 1, its second half their negatives; the biases are 0. Drawn
    at random they are correlated."""
    images = np.asarray(jax.random.normal(jax.random.key(1), (20, 8, 8, 3)))
    images = images + 0.5 * np.roll(images, 1, axis=1) + np.array([1.0, 0.0, 0.0], np.float32)  # neighbours resemble
    for init, is_white in ((lambda draw: airbench.whitened(draw, images), True), (None, False)):
        net, variables = airbench_variables(init)
        first = variables["params"]["whiten"]
        filters = first["kernel"].shape[-1]
        assert filters == 24
        windows = [images[:, i : i + 7, j : j + 7] for i in range(2) for j in range(2)]
        patches = np.concatenate(windows, axis=-1).reshape(-1, 12)
        out = patches @ np.asarray(first["kernel"]).reshape(12, filters)
        second_moments = out[:, :12].T @ out[:, :12] / len(out)
        assert (np.abs(second_moments - np.eye(12)).max() < 0.02) == is_white
        assert np.allclose(out[:, 12:], -out[:, :12], atol=1e-5) == is_white
        assert net.apply(variables, jnp.asarray(images)).shape == (20, 3)


def test_convolutions_begin_by_copying_their_input() -> None:
    """As many channels as there are; no BN has a scale."""
    _, variables = airbench_variables()
    kernel = variables["params"]["layer1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 1, :, :24], np.eye(24))
    assert np.abs(kernel[0, 0, :, :24]).max() == 0
    bound = (9 * 24) ** -0.5
    assert 0.9 * bound < np.abs(kernel[..., 24:]).max() <= bound
    assert set(variables["params"]["layer1"]["bn1"]) == {"bias"}


def test_three_convolutions_have_a_skip() -> None:
    """With the last convolution at 0 the group passes on what the first one gave, once more through GELU."""
    net, variables = airbench_variables()
    params = variables["params"]
    third = jax.tree.map(jnp.zeros_like, params["layer1"]["conv3"])
    silent = {**variables, "params": {**params, "layer1": {**params["layer1"], "conv3": third}}}
    images = jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    _, seen = net.apply(silent, images, capture_intermediates=True)
    group = seen["intermediates"]["layer1"]
    expected = jax.nn.gelu(jax.nn.gelu(group["bn1"]["__call__"][0]))
    np.testing.assert_allclose(group["__call__"][0], expected, atol=1e-5)


def test_images_that_are_pooled_away_are_refused() -> None:
    """With the least size."""
    with pytest.raises(ValueError, match="4 x 8 are too small: 5 x 5 at least"):
        models.build("airbench94", 3, widths=(4, 4), blocks=(2, 2)).init(jax.random.key(0), jnp.zeros((1, 4, 8, 3)))
