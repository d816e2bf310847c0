"""Programs on batches of any size: traced once, and refused or found out where examples depend on their batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models
from bend_jax.batching import batch_dependence
from bend_jax.split import cut, split
from bend_jax.subset import flatten, insert, select

Fn = Callable[..., Any]
NET = models.build("resnet18", 3, widths=(4, 8), blocks=(1, 1))
SHAPE = (6, 8, 8, 3)
W = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
X = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)


@pytest.mark.parametrize("patterns", [["layer2.0.bn2"], ["fc"], ["*"]])
def test_any_batch_size_goes_through_one_pair(patterns: list[str]) -> None:
    """One image, two, five: the network's own logits, also where the pair was made for another number of images."""
    variables = jax.jit(NET.init)(jax.random.key(1), jnp.zeros(SHAPE))
    subset = select(variables, patterns)
    vector = flatten(subset, variables) + 0.1
    fn: Fn = lambda v, x: NET.apply(insert(subset, variables, v), x)  # noqa: E731
    prefix, suffix = split(fn, vector, jax.ShapeDtypeStruct(SHAPE, jnp.float32), any_batch=True)
    for n in (1, 2, 5):
        images = jax.random.normal(jax.random.key(n), (n, *SHAPE[1:]))
        features = prefix(images)
        assert {f.shape[0] for f in features} == {n}
        np.testing.assert_allclose(suffix(vector, features), jax.jit(fn)(vector, images), rtol=1e-4, atol=1e-5)


def test_a_second_batch_size_calls_the_program_no_second_time() -> None:
    """Once for the split, plain, jitted, differentiated and vmapped over members; a split of one size stays one."""
    calls = []

    def fn(v: jax.Array, x: jax.Array) -> jax.Array:
        calls.append(x.shape)
        return jnp.tanh(x @ W) * v[None]

    vector = jnp.arange(3.0)
    prefix, suffix = split(fn, vector, X, any_batch=True)
    run = jax.jit(lambda prefix, suffix, v, x: suffix(v, prefix(x)))
    for n in (4, 3, 1, 9):
        x = jnp.ones((n, 5))
        features = prefix(x)
        suffix(vector, features)
        run(prefix, suffix, vector, x)
        jax.grad(lambda v: jnp.sum(suffix(v, features)))(vector)  # noqa: B023
        assert jax.vmap(suffix, (0, None))(jnp.ones((2, 3)), features).shape == (2, n, 3)
    assert calls == [(1, 5)]


def test_inputs_are_trees_with_a_common_leading_axis() -> None:
    """Keys, integers and two arguments; params are shared by all examples."""

    def fn(params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> dict[str, Any]:
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return {"out": params["a"][batch["label"]] * (batch["x"] @ W) + noise, "label": batch["label"]}

    params = {"a": jnp.arange(12.0).reshape(4, 3)}
    batch = {"x": X, "label": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(0), 4)
    prefix, suffix = split(fn, params, batch, keys, any_batch=True)
    fewer = jax.tree.map(lambda x: x[1:], (batch, keys))
    found, expected = suffix(params, prefix(*fewer)), fn(params, *fewer)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert batch_dependence(fn, params, batch, keys) is None
    with pytest.raises(ValueError, match="one leading axis in common"):
        split(fn, params, fewer[0], keys, any_batch=True)
    with pytest.raises(ValueError, match="one leading axis in common"):
        split(fn, params, batch, jax.random.key(0), any_batch=True)


def test_the_facts_of_a_cut_are_those_of_one_example() -> None:
    """Whatever the number of the images that it is given."""
    parts = cut(lambda v, x: jnp.sin(v * jnp.tanh(x)), jnp.ones((1, 5)), X, any_batch=True)
    assert parts.feature_shapes == ((1, 5),)
    assert parts.feature_bytes == 5 * 4


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda v, x: jnp.mean(x @ v), r"output has shape \[\] for a batch of 1"),
        (lambda v, x: {"out": x @ v, "v": v}, r"output\['v'\] has shape \[5, 3\] for a batch of 1"),
        (lambda v, x: jnp.squeeze(x @ v), r"output has shape \[3\] for a batch of 1"),
        (lambda v, x: jnp.zeros((len(x), 1)) + v.sum(), "no output reads the inputs"),
    ],
    ids=["mean", "params", "squeeze", "constant"],
)
def test_a_program_without_a_row_for_each_example_is_refused(fn: Fn, reason: str) -> None:
    """In one line, when it is split."""
    with pytest.raises(ValueError, match=reason):
        split(fn, W, X, any_batch=True)


class Normalised(nn.Module):
    """A net with BatchNorm, in inference or in training mode."""

    train: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(16, dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not self.train, dtype=self.dtype)(x))
        return nn.Dense(3, dtype=self.dtype)(x)


def applied(train: bool, dtype: Any) -> Fn:
    """The net's logits as a function of (variables, images)."""
    return lambda variables, x: Normalised(train, dtype).apply(variables, x, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_is_found_in_training_mode_only(dtype: Any) -> None:
    """Rounding in bfloat16 is no dependence."""
    variables = Normalised(False).init(jax.random.key(0), X)
    assert batch_dependence(applied(False, dtype), variables, X) is None
    reason = batch_dependence(applied(True, dtype), variables, X)
    assert reason is not None
    assert reason.startswith("output for one example depends on the rest of its batch")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda w, x: {"p": jax.nn.softmax(x @ w, axis=0)}, "output['p'] for one example depends"),
        (lambda w, x: jnp.maximum(x @ w, jnp.max(x @ w)), "depends on the rest of its batch"),
        (lambda w, x: (x @ w)[::-1], "depends on the rest of its batch"),
        (lambda w, x: x @ w / len(x), "alone it differs by"),
        (lambda w, x: jnp.cumsum(x @ w, axis=0), "depends on the rest of its batch"),
        (lambda w, x: (x @ w) / jnp.std(x @ w, axis=0, ddof=1, keepdims=True), "depends on the rest of its batch"),
        (lambda w, x: jnp.argsort(jnp.argsort((x @ w)[:, 0])), "depends on the rest of its batch"),
        (lambda w, x: jnp.mean(x @ w, axis=0, keepdims=True), "shape [1, 3] for a batch of 4: its first axis must be"),
        (lambda w, x: jnp.mean(x @ w), "shape [] for a batch of 1: its first axis must be"),
    ],
)
def test_examples_that_depend_on_their_batch_are_found(fn: Fn, reason: str) -> None:
    """A softmax or a maximum over the batch, its order, its size, ranks in it, and outputs that are no rows."""
    assert reason in (batch_dependence(fn, W, X) or "")


@pytest.mark.parametrize(
    "fn",
    [
        lambda w, x: jax.nn.softmax(x @ w, axis=1),
        lambda w, x: jnp.argmax(x @ w, axis=1) > 0,
        lambda w, x: jnp.log(jnp.minimum(x @ w, 0.0)),
        lambda w, x: 0 * (x @ w),
        lambda w, x: jax.lax.map(lambda row: row @ w, x),
        lambda w, x: (x @ w).astype(jnp.bfloat16),
    ],
)
def test_examples_of_their_own_are_not_blamed(fn: Fn) -> None:
    """Softmax over classes, truth values, NaN in both, zeros, a loop, bfloat16."""
    assert batch_dependence(fn, W, X) is None


def test_equal_examples_show_nothing() -> None:
    """So they are refused, as is a single one."""
    for x in (jnp.ones((4, 5)), X[:1]):
        with pytest.raises(ValueError, match="at least two"):
            batch_dependence(lambda w, x: jax.nn.softmax(x @ w, axis=0), W, x)
