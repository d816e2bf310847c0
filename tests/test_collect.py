"""Trajectory and bootstrap against plain training loops, whatever is cached, streamed or chunked."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax import models
from bend_jax.api import collect_checkpoints
from bend_jax.checks import SettingsError
from bend_jax.collect import bootstrap, trajectory
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.frozen_features import optimizer
from bend_jax.collect.trajectory import Trajectory
from bend_jax.recipe import sgd
from bend_jax.split import cut
from bend_jax.subset import Subset, flatten, insert, select
from bend_jax.training import SILENT, Examples, Model
from tests.problems import BATCH, STEPS, N, Problem, coordinates, dense, fine_tune, momentum_sgd, plain, view

MODULE = models.build("resnet18", 3, widths=(4, 8), blocks=(1, 1))
PATTERNS = ("layer2.0.bn1", "layer2.0.bn2")


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Three classes of 4x4 images, a two-block net with random BN statistics."""
    key = jax.random.key(0)
    images = jax.random.normal(key, (N, 4, 4, 2))
    labels = jnp.arange(N, dtype=jnp.int32) % 3
    init = jax.jit(lambda k: MODULE.init(k, images[:1]))
    model, variables = Model(MODULE.apply, None, init), init(jax.random.key(1))
    variables = jax.tree.map(lambda x: x + 0.1 * jnp.arange(x.size).reshape(x.shape) / x.size, variables)
    return model, variables, select(variables, PATTERNS), Examples(images, labels, view, plain)


class Five(NamedTuple):
    """A bootstrap of five members."""

    settings: Bootstrap
    key: Any
    memory: int
    vectors: Any


def too_little(subset: Subset, k: int) -> Any:
    """A callbacks with memory for k vectors, and for no cache and no second member."""
    return SILENT._replace(memory=8 * subset.dim * k)


@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "streamed"])
def test_a_trajectory_is_plain_fine_tuning_of_the_subset(problem: Any, is_cached: bool) -> None:
    """The same vectors as uncached training on the same views, to 1e-4, saved after every epoch."""
    settings = Trajectory(k=3, views=2, batch=BATCH, cache_dtype="float32", lr=0.1)
    key = jax.random.key(5)
    callbacks = SILENT if is_cached else too_little(problem[2], 3)
    found = trajectory.collect(*problem, key, settings, callbacks=callbacks)
    assert found.weights is None
    expected = fine_tune(problem, jax.random.split(key, 3), settings, momentum_sgd(settings), 3)
    np.testing.assert_allclose(found.vectors, list(expected), atol=1e-4)
    assert np.ptp(np.asarray(found.vectors), axis=0).max() > 1e-2


def test_a_narrow_cache_is_close_to_a_wide_one(problem: Any) -> None:
    """bfloat16 features change vectors by little; cached and streamed stay the same."""
    key = jax.random.key(5)
    wide, narrow = (
        trajectory.collect(*problem, key, Trajectory(k=2, views=2, batch=BATCH, cache_dtype=d, lr=0.1)).vectors
        for d in ("float32", "bfloat16")
    )
    streamed = trajectory.collect(
        *problem,
        key,
        Trajectory(k=2, views=2, batch=BATCH, cache_dtype="bfloat16", lr=0.1),
        callbacks=too_little(problem[2], 2),
    ).vectors
    assert 0 < float(jnp.abs(wide - narrow).max()) < 0.02
    np.testing.assert_allclose(narrow, streamed, atol=1e-4)


def alone(problem: Any, key: Any, settings: Bootstrap, **more: Any) -> np.ndarray:
    """One member of a bootstrap, trained by itself."""
    keys = jax.random.split(key, 5)
    return list(fine_tune(problem, keys, settings, momentum_sgd(settings), settings.epochs, **more))[-1]


@pytest.mark.parametrize("fits", [True, False], ids=["one chunk", "chunks of one"])
def test_each_bootstrap_is_trained_as_if_alone(problem: Any, fits: bool) -> None:
    """Every vector equals plain training with its own resample's counts as weights, for any chunk size."""
    settings = Bootstrap(k=3, views=2, batch=BATCH, cache_dtype="float32", epochs=2, lr=0.1)
    key = jax.random.key(6)
    total: list[int] = []
    callbacks = (SILENT if fits else too_little(problem[2], 3))._replace(resume=record(total))
    found = bootstrap.collect(*problem, key, settings, callbacks=callbacks)
    counts = np.asarray(bootstrap.resamples(jax.random.split(key, 5)[3], 3, N), np.float32)
    expected = [alone(problem, key, settings, weigh=lambda index, c=c: c[index]) for c in counts]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-4)
    assert np.ptp(np.asarray(found.vectors), axis=0).max() > 1e-2
    assert total == [(1 if fits else 3) * 2 * STEPS]


def record(total: list[int]) -> Callable[[str, Any, int], Any]:
    """A callbacks's resume that notes how many steps a training has: those of a chunk times the chunks."""

    def resume(name: str, state: Any, steps: int) -> Any:
        total.append(steps)
        return state

    return resume


@pytest.fixture(scope="module")
def five(problem: Problem) -> Five:
    """Five members trained in one chunk, and room for the cache and two members a step."""
    settings = Bootstrap(k=5, views=1, batch=BATCH, cache_dtype="float32", epochs=2, lr=0.1)
    key = jax.random.key(7)
    model, variables, subset, examples = problem
    one = cut(
        lambda v, x: model.apply(insert(subset, variables, v), x[None])[0],
        jnp.zeros(subset.dim),
        plain(examples.images)[0],
    )
    memory = 2 * 3 * BATCH * one.suffix_bytes + N * one.feature_bytes
    return Five(settings, key, memory, bootstrap.collect(*problem, key, settings).vectors)


def test_chunks_that_do_not_divide_k(problem: Any, five: Five) -> None:
    """Five members in chunks of two are the five of one chunk."""
    total: list[int] = []
    callbacks = SILENT._replace(memory=five.memory, resume=record(total))
    parts = bootstrap.collect(*problem, five.key, five.settings, callbacks=callbacks)
    np.testing.assert_allclose(five.vectors, parts.vectors, atol=1e-5)
    assert total == [3 * 2 * STEPS]


class LostError(Exception):
    """A training was lost."""


@pytest.mark.parametrize(("before", "after", "step"), [(2, 5, 3 * STEPS), (5, 2, STEPS)])
def test_it_goes_on_where_others_fit_at_once(problem: Any, five: Five, before: int, after: int, step: int) -> None:
    """As after a restart on more devices, or on fewer: the chunks are the old ones, the vectors the undisturbed ones.

    The first was lost in the second of three chunks, the other in the middle of its only one."""
    saved, begun = list[Any](), list[tuple[int, int]]()

    def lose(name: str, state: Any, losses: Any) -> None:
        saved.append(jax.device_get(state))
        if int(state.step) == step:
            raise LostError

    def resume(name: str, state: Any, steps: int) -> Any:
        begun.append((int(saved[-1].step), steps))
        return saved[-1]

    room = {2: five.memory, 5: SILENT.memory}
    how = [SILENT._replace(memory=room[before], segment=lose), SILENT._replace(memory=room[after], resume=resume)]
    with pytest.raises(LostError):
        bootstrap.collect(*problem, five.key, five.settings, callbacks=how[0])
    found = bootstrap.collect(*problem, five.key, five.settings, callbacks=how[1])
    assert begun[-1] == (step, -(-5 // before) * 2 * STEPS)
    np.testing.assert_allclose(found.vectors, five.vectors, atol=1e-5)


def test_without_resampling_all_are_plain_fine_tunings() -> None:
    """And equal, with no noise in their start."""
    settings = Bootstrap(k=3, batch=BATCH, epochs=2, lr=0.1, resample=False)
    key = jax.random.key(6)
    found = np.asarray(bootstrap.collect(*dense("bn", "last"), key, settings).vectors)
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-6)
    np.testing.assert_allclose(found[0], alone(dense("bn", "last"), key, settings), atol=1e-4)


def convolutional() -> Problem:
    """A 3x3 convolution, the mean over pixels and a linear layer; the kernel is the subset."""

    def apply(variables: Any, images: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        kernel = variables["params"]["conv"]["kernel"]
        maps = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return jnp.maximum(maps, 0).mean((1, 2)) @ variables["params"]["last"]["kernel"]

    keys = jax.random.split(jax.random.key(20), 3)
    params = {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 2, 4)) / 3},
        "last": {"kernel": jax.random.normal(keys[1], (4, 3))},
    }
    images, variables = jax.random.normal(keys[2], (N, 4, 4, 2)), {"params": params}
    examples = Examples(images, jnp.arange(N, dtype=jnp.int32) % 3, view, plain)
    return Model(apply), variables, select(variables, ["conv"]), examples


def test_members_with_a_convolution_kernel_are_trained_one_at_a_time() -> None:
    """Whatever fits the memory; each equals plain training alone."""
    settings = Bootstrap(k=2, views=2, batch=BATCH, epochs=2, lr=0.1)
    key, net, total = jax.random.key(6), convolutional(), list[int]()
    found = bootstrap.collect(*net, key, settings, callbacks=SILENT._replace(resume=record(total)))
    counts = np.asarray(bootstrap.resamples(jax.random.split(key, 5)[3], 2, N), np.float32)
    expected = [alone(net, key, settings, weigh=lambda index, c=c: c[index]) for c in counts]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-4)
    assert total == [2 * settings.epochs * STEPS]


def test_bootstraps_of_everything_each_start_from_the_statistics_of_the_base() -> None:
    """One after the other, in training mode; the order of images and their augmentation are the same for each."""
    settings = Bootstrap(k=2, batch=BATCH, epochs=2, lr=0.05, perturb=0.3)
    key, net = jax.random.key(6), dense("*")
    found = bootstrap.collect(*net, key, settings)
    keys = jax.random.split(key, 5)
    counts = np.asarray(bootstrap.resamples(keys[3], 2, N), np.float32)
    starts = np.asarray(bootstrap.start_vectors(net[0], net[1], net[2], keys[4], settings))
    for b in range(2):
        more = {"whole": True, "start": starts[b]}
        expected = alone(net, key, settings, weigh=lambda index, c=counts[b]: c[index], **more)
        np.testing.assert_allclose(found.vectors[b], expected, atol=1e-4)


def test_resamples_are_multinomial() -> None:
    """Every row counts n draws; a count has mean 1 and variance 1 - 1/n; rows differ."""
    n, k = 200, 400
    counts = np.asarray(bootstrap.resamples(jax.random.key(0), k, n), np.float64)
    assert (counts.sum(axis=1) == n).all()
    assert abs(counts.var(axis=0).mean() - (1 - 1 / n)) < 0.03
    assert abs((counts == 0).mean() - (1 - 1 / n) ** n) < 0.01
    assert len({tuple(row) for row in counts}) == k


def test_a_perturbed_start_has_the_mean_and_the_spread_it_should() -> None:
    """sqrt(1 - p^2) w and p std(leaf), leaf by leaf (z < 4 on 20,000 draws); statistics stay as they are."""
    k, p = 20_000, 0.6
    model, variables, subset, _ = dense("*")
    starts = bootstrap.start_vectors(model, variables, subset, jax.random.key(0), Bootstrap(k=k, perturb=p))
    starts, base = np.asarray(starts, np.float64), np.asarray(flatten(subset, variables), np.float64)
    for path in subset.paths:
        part = coordinates(subset, path)
        if not path.startswith("params."):
            np.testing.assert_array_equal(starts[:, part], np.broadcast_to(base[part], (k, part.sum())))
            continue
        sd = p * base[part].std()
        moved = starts[:, part] - 0.8 * base[part]
        if not sd:
            assert not moved.any(), "a leaf of equal numbers has no spread"
            continue
        z_mean = moved.mean(axis=0) / (sd / math.sqrt(k))
        z_variance = (moved.var(axis=0) / sd**2 - 1) / math.sqrt(2 / k)
        assert max(np.abs(z_mean).max(), np.abs(z_variance).max()) < 4, path
        correlation = np.corrcoef(moved.T) - np.eye(part.sum())
        assert np.abs(correlation).max() * math.sqrt(k) < 4.5, path


def test_without_noise_every_start_is_the_base() -> None:
    """To the bit."""
    model, variables, subset, _ = dense("*")
    starts = bootstrap.start_vectors(model, variables, subset, jax.random.key(0), Bootstrap(k=2))
    np.testing.assert_array_equal(starts, np.broadcast_to(flatten(subset, variables), starts.shape))


def test_reinitialised_members_start_from_fresh_values(problem: Any) -> None:
    """A tree ensemble needs the model's init, and says so where there is none."""
    model, variables, _, examples = problem
    subset = select(variables, ["layer2"])
    settings = Bootstrap(k=3, epochs=1, batch=BATCH, reinitialise=True, cache_dtype="float32")
    starts = bootstrap.start_vectors(model, variables, subset, jax.random.key(0), settings)
    assert len({round(float(row.std()), 6) for row in starts}) == 3
    with pytest.raises(SettingsError, match=r"init\(key\)"):
        collect_checkpoints(model._replace(init=None), variables, examples, subset=subset, collect=settings)


def test_statistics_in_the_subset_are_carried_along(problem: Any) -> None:
    """With '*' the running statistics are coordinates of the vector, and no gradient or decay moves them."""
    _, variables, _, _ = problem
    subset = select(variables, ["*"])
    tx = optimizer(subset, sgd(0.1, 0.9, 5e-4))
    vector = flatten(subset, variables)
    updates, _ = tx.update(jnp.ones_like(vector), tx.init(vector), vector)
    after = insert(subset, variables, optax.apply_updates(vector, updates))
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], variables["batch_stats"])
    assert float(jnp.abs(after["params"]["fc"]["bias"] - variables["params"]["fc"]["bias"]).min()) > 0


def test_fresh_members_start_from_fresh_statistics() -> None:
    """Not from those of the base's weights, which fresh ones have nothing to do with."""
    model, variables, subset, examples = dense("*")
    far = {**variables, "batch_stats": jax.tree.map(lambda x: x + 1000.0, variables["batch_stats"])}
    settings = Bootstrap(k=2, batch=BATCH, epochs=1, reinitialise=True)
    for data in (variables, far):
        found = bootstrap.collect(model, data, subset, examples, jax.random.key(0), settings)
        means = [insert(subset, data, row)["batch_stats"]["bn"]["mean"] for row in found.vectors]
        assert float(jnp.abs(jnp.stack(means)).max()) < 10


def test_padding_members_do_no_harm_to_a_network_undefined_at_zero() -> None:
    """Chunks that k does not fill are padded with copies of a start, not with zeros: w / |w| has none there."""
    x = jax.random.normal(jax.random.key(0), (N, 5))
    variables = {"params": {"w": jnp.ones((5, 3))}}
    subset = select(variables, ["w"])
    model = Model(lambda v, images: images @ (v["params"]["w"] / jnp.linalg.norm(v["params"]["w"])))
    examples = Examples(
        x, jnp.arange(N, dtype=jnp.int32) % 3, lambda keys, images, index: images, lambda images: images
    )
    settings = Bootstrap(k=5, views=1, batch=BATCH, epochs=1, lr=0.1)
    for memory in (2**30, 4 * N * 5 + 9000, 4 * N * 5 + 5000):
        callbacks = SILENT._replace(memory=memory)
        found = bootstrap.collect(model, variables, subset, examples, jax.random.key(0), settings, callbacks=callbacks)
        assert np.isfinite(np.asarray(found.vectors)).all()
