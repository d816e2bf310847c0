"""Programs of a vector and images for the tests of split, and what holds for the two halves of each."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bend_jax.split import split

DIM = 6
W, U = np.asarray(jax.random.normal(jax.random.key(0), (2, DIM, DIM))) / 2
VECTOR = jax.random.normal(jax.random.key(1), (DIM,))
X = jax.random.normal(jax.random.key(2), (4, DIM))

Fn = Callable[..., Any]


def rows(v: jax.Array, x: jax.Array) -> jax.Array:
    """The vector once for each row of x."""
    return jnp.broadcast_to(v, x.shape)


@jax.custom_vjp
def straight_through(x: jax.Array) -> jax.Array:
    """Rounds; its gradient is the identity (that of `round` is zero)."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_jvp
def triple_slope(x: jax.Array) -> jax.Array:
    """sin with three times its derivative."""
    return jnp.sin(x)


@triple_slope.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return jnp.sin(primals[0]), 3 * jnp.cos(primals[0]) * tangents[0]


def plain(v: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(rows(v, x) * jnp.tanh(x @ W)) @ U


def with_jit(v: jax.Array, x: jax.Array) -> jax.Array:
    @jax.jit
    def layer(v: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jax.jit(lambda x: jnp.tanh(x @ W))(x)
        return h, rows(v, h) * h

    h, out = layer(v, x)
    return jax.jit(jnp.sin)(out) + h


def with_remat(v: jax.Array, x: jax.Array) -> jax.Array:
    block = jax.checkpoint(lambda v, x: jnp.sin(rows(v, x) * jnp.tanh(x @ W)))
    return block(v, block(v, x))


def with_custom_vjp(v: jax.Array, x: jax.Array) -> jax.Array:
    return straight_through(3 * rows(v, x) + x) @ W


def with_custom_vjp_on_images(v: jax.Array, x: jax.Array) -> jax.Array:
    return rows(v, x) * straight_through(3 * x @ W)


def with_custom_jvp(v: jax.Array, x: jax.Array) -> jax.Array:
    return triple_slope(rows(v, x) * triple_slope(x)) + jax.nn.relu(x @ W)


def with_custom_rules_in_jit_and_remat(v: jax.Array, x: jax.Array) -> jax.Array:
    inner = jax.checkpoint(lambda v, x: straight_through(3 * rows(v, x) + jnp.tanh(x @ W)))
    return jax.jit(inner)(v, x) + jax.jit(triple_slope)(rows(v, x))


def scan_body_reads_vector(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w) + rows(v, h), None), x, jnp.stack([W, U]))[0]


def scan_over_vector(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda h, scalar: (jnp.sin(h * scalar), h), x, v)[1]


def scan_body_reads_images_only(v: jax.Array, x: jax.Array) -> jax.Array:
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, jnp.stack([W, U]))[0]
    return rows(v, h) * h


def fori_on_vector(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 3, lambda i, h: jnp.sin(h + (i + 1) * rows(v, h)), x)


def while_on_vector(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda h: jnp.sum(h**2) > 1, lambda h: h * jax.nn.sigmoid(rows(v, h)), x)


def while_on_images(v: jax.Array, x: jax.Array) -> jax.Array:
    h = jax.lax.while_loop(lambda h: jnp.sum(h**2) > 1, lambda h: 0.7 * h, x)
    return rows(v, h) * h


def cond_reads_vector(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.cond(jnp.sum(x) > 0, lambda: jnp.sin(rows(v, x)) @ W, lambda: rows(v, x) * x)


def cond_chosen_by_vector(v: jax.Array, x: jax.Array) -> jax.Array:
    h = jax.lax.cond(jnp.sum(v) > 0, lambda: x @ W, lambda: x @ U)
    return rows(v, h) * h


def cond_on_images(v: jax.Array, x: jax.Array) -> jax.Array:
    h = jax.lax.switch(jnp.argmax(x[0]) % 3, [jnp.sin, jnp.cos, lambda x: x @ W], x)
    return rows(v, h) * h


def vector_twice(v: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh((x @ W) * rows(v, x)) @ U + rows(jnp.exp(v), x) * x


def vector_unused(v: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ W)


def input_unused(v: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sin(v) @ W


def nothing_used(v: jax.Array, x: jax.Array) -> tuple[jax.Array, float]:
    return jnp.sum(jnp.sin(W)), 2.0


def all_three_and_the_arguments(v: jax.Array, x: jax.Array) -> Any:
    return {"vector": v, "image": x, "frozen": jnp.cos(W), "number": 1.5, "all": plain(v, x), "none": None}


def with_random_keys(v: jax.Array, x: jax.Array) -> jax.Array:
    a, b = jax.random.split(jax.random.key(7))
    h = x + jax.random.normal(a, x.shape)
    return rows(v, h) * h * jax.random.bernoulli(b, 0.5, x.shape)


def gradient_inside(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.grad(lambda x: jnp.sum(jnp.sin(rows(v, x) * jnp.tanh(x @ W))))(x)


def vmapped_inside(v: jax.Array, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.sin(v * jnp.tanh(row @ W)))(x)


PROGRAMS: list[Fn] = [
    plain,
    with_jit,
    with_remat,
    with_custom_vjp,
    with_custom_vjp_on_images,
    with_custom_jvp,
    with_custom_rules_in_jit_and_remat,
    scan_body_reads_vector,
    scan_over_vector,
    scan_body_reads_images_only,
    fori_on_vector,
    while_on_vector,
    while_on_images,
    cond_reads_vector,
    cond_chosen_by_vector,
    cond_on_images,
    vector_twice,
    vector_unused,
    input_unused,
    nothing_used,
    all_three_and_the_arguments,
    with_random_keys,
    gradient_inside,
    vmapped_inside,
]


def assert_close(left: Any, right: Any) -> None:
    """Same structure and, to 1e-5, the same numbers."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)


def total(outputs: Any) -> jax.Array:
    """A number whose gradient weighs every output differently."""
    leaves = [jnp.asarray(x, jnp.float32).ravel() for x in jax.tree.leaves(outputs)]
    return sum((jnp.sum(jnp.sin(x + jnp.arange(x.size))) for x in leaves), start=jnp.float32(0))


def assert_split_equals(fn: Fn, vector: Any, *inputs: Any) -> tuple[Fn, Fn]:
    """The pair's value and gradient are the whole program's, at the traced values and at others."""
    prefix, suffix = split(fn, vector, *inputs)
    # reverse mode does not go through `while`
    gradient = jax.jacfwd if fn is while_on_vector else jax.grad
    whole = jax.jit(lambda v, *x: (fn(v, *x), gradient(lambda v: total(fn(v, *x)))(v)))
    features = jax.jit(lambda p, *x: p(*x))
    rest = jax.jit(lambda s, v, f: (s(v, f), gradient(lambda v: total(s(v, f)))(v)))
    for step in (0.0, -0.75):
        moved = jax.tree.map(lambda x: x * (1 + step) if jnp.issubdtype(x.dtype, jnp.inexact) else x, (vector, inputs))  # noqa: B023
        v, x = moved
        assert_close(rest(suffix, v, features(prefix, *x)), whole(v, *x))
    assert_close(suffix(vector, prefix(*inputs)), fn(vector, *inputs))
    return prefix, suffix


class Norm(nn.Module):
    """A user's own net: dense layers and LayerNorm, no batch statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.gelu(nn.Dense(8, name="first")(x))
        h = nn.LayerNorm(name="norm")(h)
        return nn.Dense(3, name="last")(h)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation, those inside of other equations too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def count(primitive: str, fn: Fn, *arguments: Any) -> int:
    """How many equations of that primitive a call of fn holds."""
    return sum(e.primitive.name == primitive for e in equations(jax.make_jaxpr(fn)(*arguments).jaxpr))
