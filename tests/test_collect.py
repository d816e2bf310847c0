"""Collectors against plain training loops, whatever is cached, streamed or chunked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax import models
from bend_jax.collect import COLLECT, bootstrap, trajectory
from bend_jax.collect.features import optimizer
from bend_jax.config import SettingsError
from bend_jax.settings import COLLECTORS, Bootstrap, Trajectory
from bend_jax.subset import Subset, flatten, insert, select
from bend_jax.training import SILENT, Examples, Model, cross_entropy, sgd

N, BATCH = 24, 8
MODULE = models.build("resnet18", 3, widths=(4, 8), blocks=(1, 1))
PATTERNS = ("layer2.0.bn1", "layer2.0.bn2")


def plain(images: Any) -> Any:
    """No normalisation."""
    return images.astype(jnp.float32)


def view(keys: Any, images: Any) -> Any:
    """Every image gets noise from its own key."""
    return plain(images) + 0.1 * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)


@pytest.fixture(scope="module")
def problem() -> tuple[Model, Any, Subset, Examples]:
    """Three classes of 4x4 images, a two-block net with random BN statistics."""
    key = jax.random.key(0)
    images = jax.random.normal(key, (N, 4, 4, 2))
    labels = jnp.arange(N, dtype=jnp.int32) % 3
    model = Model(MODULE.apply, None, lambda k: MODULE.init(k, images[:1]))
    variables = MODULE.init(jax.random.key(1), images[:1])
    variables = jax.tree.map(lambda x: x + 0.1 * jnp.arange(x.size).reshape(x.shape) / x.size, variables)
    return model, variables, select(variables, PATTERNS), Examples(images, labels, view, plain)


def reference(problem: Any, key: Any, settings: Any, counts: Any = None) -> list[np.ndarray]:
    """Plain training of one vector through the whole net, in a Python loop; returns the vector after every epoch."""
    model, variables, subset, examples = problem
    keys = jax.random.split(key, 5 if isinstance(settings, Bootstrap) else 3)
    key_views, key_order = keys[0], keys[1]
    epochs = settings.epochs if isinstance(settings, Bootstrap) else settings.k
    vector = flatten(subset, variables)
    tx = optax.chain(optax.add_decayed_weights(settings.weight_decay), optax.sgd(settings.lr, settings.momentum))
    state, saved = tx.init(vector), []

    @jax.jit
    def gradient(vector: Any, images: Any, labels: Any, weights: Any) -> Any:
        def loss(v: Any) -> Any:
            return jnp.mean(weights * cross_entropy(model.apply(insert(subset, variables, v), images), labels))

        return jax.grad(loss)(vector)

    for epoch in range(epochs):
        order = jax.random.permutation(jax.random.fold_in(key_order, epoch), N)
        key_view = jax.random.fold_in(key_views, epoch % settings.views)
        for begin in range(0, N, BATCH):
            index = order[begin : begin + BATCH]
            image_keys = jax.vmap(lambda i, k=key_view: jax.random.fold_in(k, i))(index)
            images = view(image_keys, examples.images[index])
            weights = jnp.ones(BATCH) if counts is None else counts[index]
            grads = gradient(vector, images, examples.labels[index], weights)
            updates, state = tx.update(grads, state, vector)
            vector = optax.apply_updates(vector, updates)
        saved.append(np.asarray(vector))
    return saved


@pytest.mark.parametrize("memory", [2**30, 0], ids=["cached", "streamed"])
def test_a_trajectory_is_plain_fine_tuning_of_the_subset(problem: Any, memory: int) -> None:
    """The same vectors as uncached training on the same views, to 1e-4, saved after every epoch."""
    settings = Trajectory(k=3, views=2, batch=BATCH, cache_dtype="float32", lr=0.1)
    key = jax.random.key(5)
    watch = SILENT._replace(memory=memory)
    found = trajectory.collect(*problem, key, settings, watch=watch)
    assert found.weights is None
    np.testing.assert_allclose(found.vectors, reference(problem, key, settings), atol=1e-4)
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
        watch=SILENT._replace(memory=0),
    ).vectors
    assert 0 < float(jnp.abs(wide - narrow).max()) < 0.02
    np.testing.assert_allclose(narrow, streamed, atol=1e-4)


@pytest.mark.parametrize("chunk_memory", [2**30, 1], ids=["one chunk", "chunks of one"])
def test_each_bootstrap_is_trained_as_if_alone(problem: Any, chunk_memory: int) -> None:
    """Every vector equals plain training with its own resample's counts as weights, for any chunk size."""
    settings = Bootstrap(k=3, views=2, batch=BATCH, cache_dtype="float32", epochs=2, lr=0.1)
    key = jax.random.key(6)
    found = bootstrap.collect(*problem, key, settings, watch=SILENT._replace(memory=chunk_memory))
    counts = bootstrap.resamples(jax.random.split(key, 5)[3], 3, N)
    expected = [reference(problem, key, settings, counts[b].astype(jnp.float32))[-1] for b in range(3)]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-4)
    assert np.ptp(np.asarray(found.vectors), axis=0).max() > 1e-2


def test_chunks_that_do_not_divide_k(problem: Any) -> None:
    """Five members in chunks of two are the five of one chunk."""
    settings = Bootstrap(k=5, views=1, batch=BATCH, cache_dtype="float32", epochs=1, lr=0.1)
    key = jax.random.key(7)
    whole = bootstrap.collect(*problem, key, settings)
    from bend_jax.split import cut

    model, variables, subset, examples = problem
    one = cut(
        lambda v, x: model.apply(insert(subset, variables, v), x[None])[0],
        jnp.zeros(subset.dim),
        plain(examples.images)[0],
    )
    # room for the cache and for two members a step
    memory = 2 * 3 * BATCH * one.suffix_bytes + N * one.feature_bytes
    parts = bootstrap.collect(*problem, key, settings, watch=SILENT._replace(memory=memory))
    np.testing.assert_allclose(whole.vectors, parts.vectors, atol=1e-5)


def test_resamples_are_multinomial() -> None:
    """Every row counts n draws; a count has mean 1 and variance 1 - 1/n; rows differ."""
    n, k = 200, 400
    counts = np.asarray(bootstrap.resamples(jax.random.key(0), k, n), np.float64)
    assert (counts.sum(axis=1) == n).all()
    assert abs(counts.var(axis=0).mean() - (1 - 1 / n)) < 0.03
    assert abs((counts == 0).mean() - (1 - 1 / n) ** n) < 0.01
    assert len({tuple(row) for row in counts}) == k


def test_reinitialised_members_start_from_fresh_values(problem: Any) -> None:
    """A tree ensemble needs the model's init, and says so where there is none."""
    model, variables, _, examples = problem
    subset = select(variables, ["layer2"])
    settings = Bootstrap(k=3, epochs=1, batch=BATCH, reinitialise=True, cache_dtype="float32")
    starts = bootstrap.start_vectors(model, variables, subset, jax.random.key(0), settings)
    assert len({round(float(row.std()), 6) for row in starts}) == 3
    with pytest.raises(SettingsError, match=r"init\(key\)"):
        bootstrap.collect(model._replace(init=None), variables, subset, examples, jax.random.key(0), settings)


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


def test_every_collector_of_the_settings_has_its_file() -> None:
    """The table and the settings name the same ones."""
    assert set(COLLECT) == set(COLLECTORS)


def test_padding_members_do_no_harm_to_a_network_undefined_at_zero() -> None:
    """Chunks that k does not fill are padded with copies of a start, not with zeros: w / |w| has none there."""
    x = jax.random.normal(jax.random.key(0), (N, 5))
    variables = {"params": {"w": jnp.ones((5, 3))}}
    subset = select(variables, ["w"])
    model = Model(lambda v, images: images @ (v["params"]["w"] / jnp.linalg.norm(v["params"]["w"])))
    examples = Examples(x, jnp.arange(N, dtype=jnp.int32) % 3, lambda keys, images: images, lambda images: images)
    settings = Bootstrap(k=5, views=1, batch=BATCH, epochs=1, lr=0.1)
    for memory in (2**30, 4 * N * 5 + 9000, 4 * N * 5 + 5000):
        watch = SILENT._replace(memory=memory)
        found = bootstrap.collect(model, variables, subset, examples, jax.random.key(0), settings, watch=watch)
        assert np.isfinite(np.asarray(found.vectors)).all()
