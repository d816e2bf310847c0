"""Both halves together are the whole program, in value and in gradient, and each holds its own work only."""

import gc
import weakref
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models
from bend_jax.split import Cut, cut, split
from bend_jax.subset import flatten, insert, select
from tests.programs import (
    DIM,
    PROGRAMS,
    VECTOR,
    Fn,
    Norm,
    U,
    W,
    X,
    assert_close,
    assert_split_equals,
    count,
    input_unused,
    plain,
    rows,
    scan_body_reads_images_only,
    scan_body_reads_vector,
    straight_through,
    total,
    triple_slope,
    vector_twice,
    vector_unused,
    vmapped_inside,
    with_jit,
    with_remat,
)


@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda fn: fn.__name__)
def test_the_pair_equals_the_program_in_value_and_gradient(fn: Fn) -> None:
    """Every construct that a network may be written with."""
    assert_split_equals(fn, VECTOR, X)


def test_a_straight_through_gradient_survives() -> None:
    """By hand: the gradient of sum(round(3 v + x)) is 3 times the number of rows, not the 0 of `round`."""
    prefix, suffix = split(lambda v, x: straight_through(3 * rows(v, x) + x), VECTOR, X)
    gradient = jax.grad(lambda v: jnp.sum(suffix(v, prefix(X))))(VECTOR)
    np.testing.assert_allclose(gradient, jnp.full(DIM, 3.0 * len(X)))


def test_a_custom_derivative_survives() -> None:
    """The slope is 3 cos, not cos, forward and reverse."""
    prefix, suffix = split(lambda v, x: triple_slope(v) + jnp.sum(x), VECTOR, X)
    features = prefix(X)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(
            jacobian(lambda v: suffix(v, features))(VECTOR), jnp.diag(3 * jnp.cos(VECTOR)), atol=1e-6
        )


def test_the_gradient_of_inputs_flows_through_both_halves() -> None:
    """Chained, the pair is the program for every argument."""
    prefix, suffix = split(plain, VECTOR, X)
    ours = jax.jit(jax.grad(lambda v, x: total(suffix(v, prefix(x))), argnums=(0, 1)))(VECTOR, X)
    assert_close(ours, jax.jit(jax.grad(lambda v, x: total(plain(v, x)), argnums=(0, 1)))(VECTOR, X))


def test_inputs_and_outputs_may_be_trees() -> None:
    """Dicts, tuples, several inputs, integers, a random key; another structure is refused."""

    def fn(v: jax.Array, batch: dict[str, Any], key: jax.Array) -> dict[str, Any]:
        h = batch["x"] @ W + jax.random.normal(key, batch["x"].shape)
        index = batch["pair"][1]
        return {"out": rows(v, h) * h, "extra": (v[index], batch["pair"][0]), "count": index + 1}

    batch = {"x": X, "pair": (jnp.ones(3), jnp.array([0, 5]))}
    prefix, _ = assert_split_equals(fn, VECTOR, batch, jax.random.key(3))
    with pytest.raises(ValueError, match="structure"):
        prefix({"x": X, "pair": [jnp.ones(3), jnp.array([0, 5])]}, jax.random.key(3))
    with pytest.raises(ValueError, match="structure"):
        prefix(batch)


class Block(nn.Module):
    """A residual layer, as `nn.scan` wants it."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + nn.tanh(nn.Dense(DIM, name="dense")(x)), None


class Scanned(nn.Module):
    """Three blocks with stacked parameters, then a head."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = blocks(name="blocks")(x, None)
        return nn.Dense(3, name="head")(x)


class Rematerialised(nn.Module):
    """Two recomputed blocks."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name in ("a", "b"):
            x, _ = nn.remat(Block)(name=name)(x, None)
        return x


def program(module: nn.Module, patterns: list[str], images: jax.Array) -> tuple[Fn, jax.Array]:
    """(fn(vector, images), its vector) of that subset of the module, with biases that are not zero."""
    variables = jax.tree.map(lambda x: x + 0.1, jax.jit(module.init)(jax.random.key(5), images))
    subset = select(variables, patterns)
    return lambda v, x: module.apply(insert(subset, variables, v), x), flatten(subset, variables)


@pytest.mark.parametrize(
    ("module", "patterns"),
    [
        (Norm(), ["norm"]),
        (Norm(), ["first.bias", "last.kernel"]),
        (Scanned(), ["head"]),
        (Scanned(), ["blocks.dense.bias"]),
        (Rematerialised(), ["b"]),
        (Rematerialised(), ["*"]),
    ],
)
def test_a_users_own_flax_module_is_split(module: nn.Module, patterns: list[str]) -> None:
    """LayerNorm, nn.scan and nn.remat, cut inside and outside."""
    fn, vector = program(module, patterns, X)
    assert_split_equals(fn, vector, X)


SMALL = models.build("resnet18", 3, widths=(4, 8), blocks=(1, 1))
IMAGES = jax.random.normal(jax.random.key(6), (2, 8, 8, 3))


@pytest.mark.parametrize(
    ("patterns", "before", "after", "kernel"),
    [
        (["fc"], 6, 0, False),
        (["layer2.0.bn2"], 6, 0, False),
        (["layer2.0.shortcut.1"], 6, 0, False),
        (["layer2.0.bn1"], 5, 1, False),
        (["layer2.0.conv2.weight"], 5, 1, True),
        (["layer2.0.shortcut.0.weight"], 5, 1, True),
        (["layer1.0.bn1", "fc"], 2, 4, False),
        (["*"], 0, 6, True),
    ],
)
def test_each_half_holds_its_own_convolutions_only(patterns: list[str], before: int, after: int, kernel: bool) -> None:
    """Six convolutions in all: those behind the vector are the suffix's, also inside a block; none is done twice."""
    fn, vector = program(SMALL, patterns, IMAGES)
    parts = cut(fn, vector, IMAGES)
    features = jax.eval_shape(parts.prefix, IMAGES)
    assert count("conv_general_dilated", fn, vector, IMAGES) == 6
    assert count("conv_general_dilated", parts.prefix, IMAGES) == before
    assert count("conv_general_dilated", parts.suffix, vector, features) == after
    assert parts.has_vector_kernel is kernel
    assert parts.feature_shapes == tuple(f.shape for f in features)
    assert parts.feature_bytes == sum(4 * f.size for f in features)


def test_a_residual_network_is_split_to_1e_5() -> None:
    """Cut inside a block: value, gradient, and vmap over vectors with the prefix run once."""
    fn, vector = program(SMALL, ["layer2.0.bn1"], IMAGES)
    prefix, suffix = assert_split_equals(fn, vector, IMAGES)
    vectors = jnp.stack([vector, vector + 1, -vector])
    many = jax.jit(jax.vmap(suffix, (0, None)))(vectors, prefix(IMAGES))
    assert_close(many, jnp.stack([jax.jit(fn)(v, IMAGES) for v in vectors]))


def test_features_are_what_the_suffix_reads_and_nothing_more() -> None:
    """The head reads pooled features; all inputs of a block's BN and its skip are two."""
    fn, vector = program(SMALL, ["fc"], IMAGES)
    assert cut(fn, vector, IMAGES).feature_shapes == ((2, 8),)
    fn, vector = program(SMALL, ["layer2.0.bn2"], IMAGES)
    assert set(cut(fn, vector, IMAGES).feature_shapes) == {(2, 4, 4, 8)}
    everything = cut(*program(SMALL, ["*"], IMAGES), IMAGES)
    assert everything.feature_shapes == (IMAGES.shape,)
    assert cut(input_unused, VECTOR, X).feature_shapes == ()


@pytest.mark.parametrize(
    ("fn", "before", "after"),
    [
        (plain, 1, 1),
        (with_jit, 1, 0),
        (with_remat, 1, 1),
        (vector_twice, 1, 1),
        (scan_body_reads_images_only, 1, 0),
        (scan_body_reads_vector, 0, 1),
        (vmapped_inside, 1, 0),
        (vector_unused, 1, 0),
        (input_unused, 0, 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_each_half_holds_its_own_products_only(fn: Fn, before: int, after: int) -> None:
    """Through jit and remat the cut is made inside; a loop that reads the vector is the suffix's as a whole."""
    prefix, suffix = split(fn, VECTOR, X)
    assert count("dot_general", prefix, X) == before
    assert count("dot_general", suffix, VECTOR, jax.eval_shape(prefix, X)) == after


def test_a_kernel_made_from_the_vector_is_found() -> None:
    """Not the leaf itself but something computed from it, inside jit; images that depend on it are no kernel."""
    kernel = jnp.ones((3, 3, 2, 2))
    images = jnp.ones((1, 5, 5, 2))
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    vector = jnp.ones(2)
    scaled = cut(jax.jit(lambda v, x: convolve(x, kernel * v.reshape(1, 1, 1, 2))), vector, images)
    assert scaled.has_vector_kernel
    assert not cut(lambda v, x: convolve(x * v.reshape(1, 1, 1, 2), kernel), vector, images).has_vector_kernel


def test_another_batch_size_is_refused() -> None:
    """By each half, with the way out in the message."""
    prefix, suffix = split(plain, VECTOR, X)
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[3, 6\].*any_batch"):
        prefix(X[:3])
    with pytest.raises(ValueError, match="split again"):
        suffix(VECTOR, tuple(f[:3] for f in prefix(X)))
    with pytest.raises(ValueError, match="split again"):
        suffix(VECTOR[:3], prefix(X))


def test_the_vector_may_be_a_shape() -> None:
    """Nothing of its values is needed."""
    shape = jax.ShapeDtypeStruct(VECTOR.shape, VECTOR.dtype)
    prefix, suffix = split(plain, shape, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert_close(suffix(VECTOR, prefix(X)), plain(VECTOR, X))


def test_a_split_inside_jit_closes_over_tracers() -> None:
    """And lets gradients of what it closed over through."""

    def loss(weights: jax.Array, v: jax.Array, x: jax.Array, whole: bool) -> jax.Array:
        def fn(v: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.sin(rows(v, x) * jnp.tanh(x @ weights)) @ jnp.cos(weights)

        if whole:
            return total(fn(v, x))
        prefix, suffix = split(fn, v, x)
        return total(suffix(v, prefix(x)))

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    assert_close(gradients(jnp.asarray(W), VECTOR, X, False), gradients(jnp.asarray(W), VECTOR, X, True))


def test_the_frozen_net_is_an_argument_and_not_baked_in() -> None:
    """Frozen arrays are leaves of the halves: passed to jit, no program holds them as constants."""
    big = jnp.asarray(np.random.default_rng(0).normal(size=(DIM, 512)), jnp.float32)

    def fn(v: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(rows(v, x) * (jnp.tanh(x @ big) @ big.T)) @ big

    def baked(fn: Fn, *arguments: Any) -> int:
        return sum(np.size(c) for c in jax.make_jaxpr(fn)(*arguments).consts)

    prefix, suffix = split(fn, VECTOR, X)
    features = prefix(X)
    for half, arguments in ((prefix, (X,)), (suffix, (VECTOR, features))):
        assert any(leaf is big for leaf in jax.tree.leaves(half))
        assert baked(lambda half, *a: half(*a), half, *arguments) == 0
        assert baked(half, *arguments) >= big.size  # what closing over it would do
    doubled = jax.tree.map(lambda x: 2 * x, suffix)
    expected = jnp.tanh(rows(VECTOR, X) * (jnp.tanh(X @ big) @ big.T)) @ (2 * big)
    assert_close(jax.jit(lambda s, v, f: s(v, f))(doubled, VECTOR, features), expected)


def test_a_half_with_other_constants_keeps_nothing_of_the_old_ones_alive() -> None:
    """A jitted function that has seen a half holds its code, and that holds no array."""
    frozen = jnp.asarray(W)
    halves = split(lambda v, x: jnp.tanh(rows(v, x) * jnp.tanh(x @ frozen)) @ frozen, VECTOR, X)
    alive = weakref.ref(frozen)
    halves = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), halves)
    del frozen
    gc.collect()
    assert alive() is None
    assert len(jax.tree.leaves(halves)) == 2


def test_each_half_carries_only_the_constants_it_reads() -> None:
    """W is read before the vector, U behind it."""
    prefix, suffix = split(plain, VECTOR, X)
    (before,), (behind,) = jax.tree.leaves(prefix), jax.tree.leaves(suffix)
    np.testing.assert_array_equal(before, W)
    np.testing.assert_array_equal(behind, U)


def test_effects_stay_in_the_suffix() -> None:
    """A print of images alone is not lost, and not done in the prefix."""
    seen: list[float] = []

    def fn(v: jax.Array, x: jax.Array) -> jax.Array:
        h = jnp.tanh(x @ W)
        jax.debug.callback(lambda s: seen.append(float(s)), jnp.sum(h))
        return rows(v, h) * h

    prefix, suffix = split(fn, VECTOR, X)
    features = jax.jit(prefix)(X)
    jax.effects_barrier()
    assert seen == []
    assert count("dot_general", suffix, VECTOR, features) == 0
    suffix(VECTOR, features)
    jax.jit(suffix)(VECTOR, features)
    jax.effects_barrier()
    assert seen == pytest.approx([float(jnp.sum(jnp.tanh(X @ W)))] * 2, rel=1e-5)


def test_a_print_stays_in_the_suffix(capfd: pytest.CaptureFixture[str]) -> None:
    """`jax.debug.print`, inside jit, of an image and of the vector."""

    @jax.jit
    def fn(v: jax.Array, x: jax.Array) -> jax.Array:
        jax.debug.print("image {}", x[0, 0])
        jax.debug.print("vector {}", v[0])
        return rows(v, x) * x

    prefix, suffix = split(fn, VECTOR, X)
    features = prefix(X)
    jax.effects_barrier()
    assert capfd.readouterr().out == ""
    suffix(VECTOR, features)
    jax.effects_barrier()
    out = capfd.readouterr().out
    assert out.count("image") == 1
    assert out.count("vector") == 1


def test_the_facts_of_a_cut() -> None:
    """Bytes of features and of what the suffix writes, by hand."""
    parts = cut(lambda v, x: jnp.sin(rows(v, jnp.tanh(x)) * jnp.tanh(x)), VECTOR, X)
    assert isinstance(parts, Cut)
    assert parts.feature_shapes == ((4, 6),)
    assert parts.feature_bytes == 4 * 6 * 4
    assert parts.suffix_bytes == 3 * 4 * 6 * 4  # broadcast, multiply, sin
    assert not parts.has_vector_kernel


def test_another_dtype_is_refused_and_float64_from_numpy_is_what_jax_makes_of_it() -> None:
    """Features that were stored narrow have to be cast back first."""
    prefix, suffix = split(plain, VECTOR, X)
    features = prefix(np.asarray(X, np.float64))
    with pytest.raises(ValueError, match=r"float32.*bfloat16"):
        suffix(VECTOR, jax.tree.map(lambda f: f.astype(jnp.bfloat16), features))


def test_a_kernel_inside_a_loop_is_found() -> None:
    """A scan that reads the vector and holds a convolution may have it as its kernel."""

    def looped(v: jax.Array, x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.conv_general_dilated(carry, v.reshape(1, 1, 1, 1), (1, 1), "SAME"), None

        return jax.lax.scan(body, x, None, length=2)[0]

    found = cut(looped, jnp.ones(1), jnp.ones((1, 1, 4, 4)))
    assert found.has_vector_kernel
    assert found.suffix_bytes >= 2 * 16 * 4
