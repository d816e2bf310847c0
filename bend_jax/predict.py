"""Every vector of several sets on many images: one program a batch, the frozen part once an image and view."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from bend_jax import devices, ensemble
from bend_jax.split import cut
from bend_jax.subset import Subset, insert

Weights = dict[str, Float[np.ndarray, " m"]]  # by the name of a vote


class Outputs(NamedTuple):
    """What a set of m vectors says of n images; a voter is a member at a view, the views of a member side by side.

    predictions: the label of each voter; mean: of the voters' probabilities; weighted: other averages of them by the
    name of their weights; probabilities: of each voter, where they were asked for.
    """

    predictions: Int[np.ndarray, "voters n"]
    mean: Float[np.ndarray, "n classes"]
    weighted: dict[str, Float[np.ndarray, "n classes"]]
    probabilities: Float[np.ndarray, "voters n classes"] | None = None


def predict(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    sets: dict[str, Any],
    images: Callable[[slice, str], Any],
    n: int,
    *,
    batch: int,
    memory: int,
    mesh: Mesh | None = None,
    views: tuple[str, ...] = ("identity",),
    weights: dict[str, Weights] | None = None,
    keep: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    compiled: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Outputs]:
    """Run every vector of every set on n images and each of their views.

    images(slice, view) gives them as `apply` takes them; the last batch is filled up with the last images again.
    mesh: the devices that share the work (see `devices`), None for one.
    weights: further averages to take, by set and name; keep: also return every voter's probabilities.
    """
    variables = devices.place(variables, mesh)
    vectors = devices.place(jnp.concatenate(list(sets.values())), mesh)
    counts = [len(v) for v in sets.values()]
    stacked = [_stack(len(v), len(views), (weights or {}).get(name, {})) for name, v in sets.items()]
    size = devices.multiple(min(batch, n), mesh)
    first = devices.place(images(slice(0, size), views[0]), mesh)
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), vectors[0], first)
    chunk = min(ensemble.chunk_size(parts, memory), -(-len(vectors) // devices.count(mesh)))
    started = time.perf_counter()
    run = ensemble.member_logits.lower(apply, variables, subset, vectors, first, chunk=chunk, mesh=mesh).compile()
    compiled(time.perf_counter() - started)
    found: list[tuple[list[Any], ...]] = []
    done = 0
    while done < n:
        begin = min(done, n - size)
        rows = slice(begin, begin + size)
        logits = []
        for view in views:
            logits.append(run(variables, vectors, devices.place(images(rows, view), mesh)))
            if mesh is not None:
                jax.block_until_ready(logits[-1])  # one sharded program at a time
        fresh = slice(done - begin, None)
        found.append(_host(_summaries(logits, stacked, tuple(counts), keep), fresh))
        done = begin + size
        progress(done)
    return {name: _outputs([batch[i] for batch in found], stacked[i], weights, name) for i, name in enumerate(sets)}


def _stack(members: int, views: int, weights: Weights) -> Float[np.ndarray, "votes voters"]:
    """A row for the plain mean and one for each of the weights, over voters; each sums to 1."""
    rows = [np.ones(members), *weights.values()]
    for name, row in weights.items():
        if row.shape != (members,):
            raise ValueError(f"{name}: weights of shape {list(row.shape)} came for {members} members: one for each")
    return np.stack([over_voters(row, views) for row in rows])


def over_voters(weights: Float[np.ndarray, " m"], views: int) -> Float[np.ndarray, " voters"]:
    """Members' weights shared out over their views, summing to 1."""
    return (np.repeat(weights / weights.sum(), views) / views).astype(np.float32)


@partial(jax.jit, static_argnames=("counts", "keep"))
def _summaries(
    logits: list[Float[Array, "m b classes"]], stacked: list[Any], counts: tuple[int, ...], keep: bool
) -> list[tuple[Any, ...]]:
    """For each set: labels [voters, b], averages [votes, b, classes], probabilities [voters, b, classes] or None."""
    every = jnp.stack(logits, axis=1)  # [m, views, b, classes]
    result = []
    for part, rows in zip(jnp.split(every, list(np.cumsum(counts)[:-1])), stacked, strict=True):
        voters = part.reshape(-1, *part.shape[2:])
        p = jax.nn.softmax(voters, axis=-1)
        labels = jnp.argmax(voters, axis=-1).astype(jnp.int32)
        result.append((labels, jnp.tensordot(rows, p, axes=1, precision="highest"), p if keep else None))
    return result


def _host(summaries: list[tuple[Any, ...]], fresh: slice) -> tuple[Any, ...]:
    """The images of a batch that no batch before had, as NumPy arrays."""
    return tuple(tuple(None if x is None else np.asarray(x)[:, fresh] for x in summary) for summary in summaries)


def _outputs(batches: list[Any], rows: Any, weights: dict[str, Weights] | None, name: str) -> Outputs:
    labels, averages, probabilities = zip(*batches, strict=True)
    mean, *others = np.concatenate(averages, axis=1)
    names = (weights or {}).get(name, {})
    kept = None if probabilities[0] is None else np.concatenate(probabilities, axis=1)
    return Outputs(np.concatenate(labels, axis=1), mean, dict(zip(names, others, strict=True)), kept)
