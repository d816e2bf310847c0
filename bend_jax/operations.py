"""Floating-point operations of a network, of its training step and of its parts, counted by XLA; nothing is run."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bend_jax.recipe import cross_entropy
from bend_jax.split import Cut, cut
from bend_jax.subset import Subset, insert
from bend_jax.training import Model


class Operations(NamedTuple):
    """Floating-point operations for one image, and the cut at the vector that they belong to."""

    forward: float  # the base
    step: float  # a training step of the base
    suffix: float  # of a member, once the features are there
    suffix_step: float  # a training step of the subset on features
    parts: Cut


@lru_cache
def parts_of(model: Model, plain: Callable[..., Any], chosen: Subset, raw: jax.ShapeDtypeStruct) -> Cut:
    """The cut of a model at the vector, for one image as it is stored (raw: [1, ...]); plain makes it what the model
    takes. Shapes alone: its halves run nothing."""
    assert model.init is not None
    found: list[Cut] = []
    image, vector = jax.eval_shape(plain, raw), jax.ShapeDtypeStruct((chosen.dim,), jnp.float32)

    def look(variables: Any) -> int:  # tracers stay inside
        found.append(cut(lambda v, x: model.apply(insert(chosen, variables, v), x), vector, image))
        return 0

    jax.eval_shape(look, jax.eval_shape(model.init, jax.random.key(0)))
    return found[0]


@lru_cache
def count(model: Model, plain: Callable[..., Any], chosen: Subset, raw: jax.ShapeDtypeStruct) -> Operations:
    """Of a model on one image as it is stored (raw: [1, ...]); plain makes it what the model takes."""
    assert model.init is not None
    variables = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.eval_shape(plain, raw)
    vector = jax.ShapeDtypeStruct((chosen.dim,), jnp.float32)

    def loss(variables: Any, x: Any) -> Any:
        return jnp.sum(cross_entropy(model.apply(variables, x), jnp.zeros(1, jnp.int32)))

    def parts(variables: Any) -> Cut:
        return cut(lambda v, x: model.apply(insert(chosen, variables, v), x), vector, image)

    def prefix(variables: Any, x: Any) -> Any:
        return parts(variables).prefix(x)

    def tail(v: Any, variables: Any, x: Any) -> Any:
        own = parts(variables)
        features = own.prefix(x)
        return jax.grad(lambda v: jnp.sum(cross_entropy(own.suffix(v, features), jnp.zeros(1, jnp.int32))))(v)

    forward, first = flops(model.apply, variables, image), flops(prefix, variables, image)
    return Operations(
        forward,
        step=flops(jax.grad(loss), variables, image),
        suffix=max(forward - first, 0.0),
        suffix_step=max(flops(tail, vector, variables, image) - first, 0.0),
        parts=parts_of(model, plain, chosen, raw),
    )


def flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a program, counted by XLA before it optimises; a loop's body counts once. Lowered
    for the CPU: of other backends XLA counts nothing before compilation."""
    shapes = jax.eval_shape(lambda *values: values, *arguments)
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names other platforms alone
        cost = jax.jit(fn).lower(*shapes).compile().cost_analysis()
    else:
        with jax.default_device(cpu):
            cost = jax.jit(fn).lower(*shapes).cost_analysis()
    return float((cost or {}).get("flops", 0.0))


def in_bytes(count: int) -> str:
    """A number of bytes in words: "1.5 MiB"."""
    power = min(max(count.bit_length() - 1, 0) // 10, 3)
    return f"{count / 1024**power:.4g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
