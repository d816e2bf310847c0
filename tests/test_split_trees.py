"""The first argument of a split may be any tree, and leaves of it that nothing reads are named."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from bend_jax.split import cut, split, unread
from tests.programs import (
    DIM,
    VECTOR,
    Fn,
    Norm,
    U,
    W,
    X,
    assert_close,
    assert_split_equals,
    cond_chosen_by_vector,
    count,
    input_unused,
    nothing_used,
    plain,
    rows,
    vector_unused,
    while_on_vector,
)


class LowRank(NamedTuple):
    """An additive change of a matrix: W + down @ up."""

    down: jax.Array
    up: jax.Array


def adapted(low: LowRank, x: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.tanh(x @ W) @ (U + low.down @ low.up))


def nested(tree: dict[str, Any], x: jax.Array) -> jax.Array:
    return tree["scale"] * jnp.tanh(x @ W) @ tree["layers"][0] + rows(tree["layers"][1], x)


@cache
def two_layers() -> Any:
    """An NNX net; the library is imported here, since that takes a third of a second."""
    from flax import nnx

    class TwoLayers(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(DIM, 8, rngs=rngs)
            self.last = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(nnx.relu(self.first(x)))

    return TwoLayers(nnx.Rngs(0))


def nnx_head() -> tuple[Fn, Any]:
    """(fn(state of the head, images), that state) of an NNX net whose rest is frozen."""
    from flax import nnx

    graph, head, rest = nnx.split(two_layers(), lambda path, _: "last" in path, ...)
    return lambda head, x: nnx.merge(graph, head, rest)(x), head


TREES: dict[
    str, Callable[[], tuple[Fn, Any, int, int]]
] = {  # program, params, products in the prefix and in the suffix
    "dict": lambda: (nested, {"scale": jnp.float32(1.5), "layers": [jnp.asarray(U), VECTOR]}, 1, 1),
    "list": lambda: (lambda pair, x: jnp.tanh(x @ W) * rows(pair[0], x) + rows(pair[1], x), [VECTOR, 2 * VECTOR], 1, 0),
    "low rank": lambda: (adapted, LowRank(jnp.ones((DIM, 2)), jnp.ones((2, DIM))), 1, 2),
    "nnx": lambda: (*nnx_head(), 1, 1),
    "no leaves": lambda: (lambda _, x: jnp.tanh(x @ W), {}, 1, 0),
}


@pytest.mark.parametrize("name", TREES)
def test_the_params_may_be_any_tree(name: str) -> None:
    """Value and gradient are the program's, the products are where they belong, and members are a stacked tree."""
    fn, params, before, after = TREES[name]()
    prefix, suffix = assert_split_equals(fn, params, X)
    features = prefix(X)
    assert count("dot_general", prefix, X) == before
    assert count("dot_general", suffix, params, features) == after
    if params:
        stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
        many = jax.vmap(suffix, (0, None))(stacked, features)
        assert_close(many, jnp.stack([fn(params, X), fn(jax.tree.map(jnp.negative, params), X)]))


def test_params_of_another_structure_are_refused() -> None:
    """A leaf more, and the same leaves in another container."""
    fn, params, *_ = TREES["dict"]()
    prefix, suffix = split(fn, params, X)
    for other in ({**params, "more": VECTOR}, {**params, "layers": tuple(params["layers"])}):
        with pytest.raises(ValueError, match="params of structure"):
            suffix(other, prefix(X))


def test_a_kernel_from_any_leaf_is_found() -> None:
    """Not from the first leaf alone."""
    images, kernel = jnp.ones((1, 1, 4, 4)), jnp.ones((1, 1, 3, 3))
    params = {"a": jnp.ones(()), "kernel": kernel}
    convolve = lambda kernel, x: jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME")  # noqa: E731
    assert cut(lambda p, x: convolve(p["kernel"], p["a"] * x), params, images).has_vector_kernel
    assert not cut(
        lambda p, x: p["kernel"][0, 0, 0, 0] * convolve(kernel, p["a"] * x), params, images
    ).has_vector_kernel


def test_leaves_that_nothing_reads_are_named() -> None:
    """Never read, read by what no output needs, and read by a print alone; not one read through jit and scan."""

    @jax.jit
    def fn(tree: dict[str, Any], x: jax.Array) -> Any:
        jax.debug.print("{}", tree["printed"])
        _ = jnp.tanh(tree["dropped"]) @ W
        h = jax.lax.scan(lambda h, _: (jnp.tanh(h + tree["looped"]), None), x, None, length=2)[0]
        return {"h": h, "out": tree["returned"]}

    names = ("printed", "dropped", "looped", "returned", "never")
    tree = {name: jnp.ones((1, DIM)) for name in names} | {"pair": [jnp.ones(2), jnp.ones(3)]}
    assert unread(fn, tree, X) == ("['dropped']", "['never']", "['pair'][0]", "['pair'][1]", "['printed']")


def test_a_vector_without_effect_is_found() -> None:
    """As a single array it has no name; shapes are enough, and nothing is computed."""
    vector, x = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (VECTOR, X))
    assert unread(vector_unused, vector, x) == ("",)
    assert unread(nothing_used, vector, x) == ("",)
    for fn in (plain, while_on_vector, cond_chosen_by_vector, input_unused):
        assert unread(fn, vector, x) == ()


def test_variables_that_a_flax_net_never_reads_are_named() -> None:
    """By their paths in the tree; the same of an NNX state."""
    variables = jax.eval_shape(Norm().init, jax.random.key(0), X)
    more = {"params": {**variables["params"], "old": {"bias": jnp.ones(3)}}}
    assert unread(Norm().apply, variables, X) == ()
    assert unread(Norm().apply, more, X) == ("['params']['old']['bias']",)
    from flax import nnx

    graph, state = nnx.split(two_layers())
    names = unread(lambda state, x: nnx.merge(graph, state).first(x), state, X)
    assert len(names) == 2
    assert all(name.startswith("['last']") for name in names)
