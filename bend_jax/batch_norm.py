"""BN statistics of given weights, measured on training images, for any network with a train_apply."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bend_jax.batching import rows
from bend_jax.subset import Subset, flatten, insert
from bend_jax.training import Examples, Model

BATCH = 64  # images of a minibatch
Rest = dict[str, Any]  # collections with running averages, by name


def holds_statistics(subset: Subset) -> bool:
    """Whether BN statistics are coordinates of the vector: then they move with it."""
    return any(not path.startswith("params.") for path in subset.paths)


def mixes_statistics(subset: Subset) -> bool:
    """Whether the vector holds weights and BN statistics: then new weights need statistics of their own, which are
    re-estimated. (Where it holds no statistics, all members keep the base's, as while collecting.)"""
    return holds_statistics(subset) and any(path.startswith("params.") for path in subset.paths)


def batch_statistics(
    train_apply: Callable[..., Any], variables: Any, names: tuple[str, ...], images: Any, key: Key[Array, ""]
) -> Rest:
    """The statistics of one minibatch alone in the named collections, whatever the net's running average forgets.

    A running average is a r + (1 - a) b of the old value r and the minibatch's b: its values from r = 0 and from
    another r give a, and with it b. What does not move (a = 1), and integer leaves (counters), stay as they are.
    """
    rest = {name: variables[name] for name in names}

    def run(rest: Rest) -> Rest:
        new = train_apply({**variables, **rest}, images, key)[1]
        return {name: new[name] for name in names}

    low = run(jax.tree.map(jnp.zeros_like, rest))
    other = jax.tree.map(lambda x: 1 + 100 * jnp.abs(x), low)  # far enough from 0 for a difference without rounding
    high = run(jax.tree.map(lambda x, old: x.astype(old.dtype), other, rest))

    def solve(low: Array, high: Array, other: Array, old: Array) -> Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return old
        kept = (high - low) / other
        moves = kept < 1 - 1e-5
        return jnp.where(moves, low / jnp.where(moves, 1 - kept, 1.0), old)

    return jax.tree.map(solve, low, high, other, rest)


def draw(examples: Examples, key: Key[Array, ""], count: int) -> Any:
    """`count` different training images, augmented."""
    key_index, key_view = jax.random.split(key)
    index = jax.random.choice(key_index, examples.labels.shape[0], (count,), replace=False)
    return examples.view(jax.random.split(key_view, count), rows(examples.images, index), jnp.int32(0))


@partial(jax.jit, static_argnames=("train_apply", "subset"))
def measure(
    train_apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    vector: Float[Array, " dim"],
    images: Any,
    key: Key[Array, ""],
) -> Float[Array, " dim"]:
    """The vector with the statistics that these minibatches have under its weights: the mean over minibatches."""
    full = insert(subset, variables, vector)
    names = tuple(sorted({path.split(".")[0] for path in subset.paths} - {"params"}))
    rest = jax.lax.map(lambda batch: batch_statistics(train_apply, full, names, batch, key), images)
    old = {name: full[name] for name in names}
    mean = jax.tree.map(lambda x, before: jnp.mean(x, axis=0).astype(before.dtype), rest, old)
    return flatten(subset, {**full, **mean})


def recompute(
    model: Model,
    variables: Any,
    subset: Subset,
    vectors: Float[Array, "m dim"],
    examples: Examples,
    key: Key[Array, ""],
    count: int,
    batch: int = BATCH,
) -> Float[Array, "m dim"]:
    """The vectors with their BN statistics measured anew, on about `count` augmented training images in minibatches,
    the same ones for every vector (Izmailov et al. 2018, section 3.2). The model must have a train_apply."""
    assert model.train_apply is not None
    n = examples.labels.shape[0]
    batch = min(batch, n)
    batches = max(1, min(count, n) // batch)
    key_draw, key_apply = jax.random.split(key)
    images = draw(examples, key_draw, batches * batch)
    images = jax.tree.map(lambda x: x.reshape(batches, batch, *x.shape[1:]), images)
    run = partial(measure, model.train_apply, variables, subset)
    return jnp.stack([run(vector, images, key_apply) for vector in vectors])
