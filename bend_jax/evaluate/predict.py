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
from bend_jax.evaluate import uncertainty
from bend_jax.split import cut
from bend_jax.subset import Subset, insert

Weights = dict[str, Float[np.ndarray, " m"]]  # by the name of a vote


class Running(NamedTuple):
    """The mean vote of a set's first members, for several numbers of them: its label, its probability of the true one.

    These are the [steps, n] numbers that curves against m need; the [voters, n, classes] probabilities stay on the
    device, a batch at a time.
    """

    members: tuple[int, ...]
    predictions: Int[np.ndarray, "steps n"]
    likelihoods: Float[np.ndarray, "steps n"]


class Outputs(NamedTuple):
    """What a set of m vectors says of n images; a voter is a member at a view, the views of a member side by side.

    predictions: the label of each voter; mean: of the voters' probabilities; weighted: other averages of them by the
    name of their weights; probabilities: of each voter, where they were asked for; information: the voters' mutual
    information (`ranking.mutual_information`); running: where it was asked for.
    """

    predictions: Int[np.ndarray, "voters n"]
    mean: Float[np.ndarray, "n classes"]
    weighted: dict[str, Float[np.ndarray, "n classes"]]
    probabilities: Float[np.ndarray, "voters n classes"] | None = None
    information: Float[np.ndarray, " n"] | None = None
    running: Running | None = None


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
    running: dict[str, tuple[int, ...]] | None = None,
    labels: Int[np.ndarray, " n"] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    compiled: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Outputs]:
    """Run every vector of every set on n images and each of their views.

    images(slice, view) gives them as `apply` takes them; the last batch is filled up with the last images again.
    mesh: the devices that share the work (see `devices`), None for one.
    weights: further averages to take, by set and name; keep: also return every voter's probabilities; running: of which
    sets, and for how many of their first members, to return `Running`, for which the true labels are needed.
    """
    variables = devices.replicate(variables, mesh)
    vectors = devices.replicate(jnp.concatenate(list(sets.values())), mesh)
    begins = np.cumsum([0, *(len(v) for v in sets.values())])[:-1].tolist()
    stacked = [_stack(len(v), len(views), (weights or {}).get(name, {})) for name, v in sets.items()]
    steps = running or {}
    if steps and labels is None:
        raise ValueError(f"running votes of {', '.join(steps)} need the true labels")
    firsts = [_firsts(len(v), len(views), steps[name]) if name in steps else None for name, v in sets.items()]
    true = np.zeros(n, np.int32) if labels is None else labels
    size = devices.multiple(min(batch, n), mesh)
    first = devices.replicate(images(slice(0, size), views[0]), mesh)
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), vectors[0], first)
    chunk = min(ensemble.chunk_size(parts, memory), -(-len(vectors) // devices.count(mesh)))
    started = time.perf_counter()
    run = ensemble.member_logits.lower(apply, variables, subset, vectors, first, chunk=chunk, mesh=mesh).compile()
    compiled(time.perf_counter() - started)
    found: list[tuple[list[Any], ...]] = []
    done = 0
    while done < n:
        begin = min(done, n - size)
        rows, logits = slice(begin, begin + size), []
        for view in views:
            logits.append(run(variables, vectors, devices.replicate(images(rows, view), mesh)))
            if mesh is not None:
                jax.block_until_ready(logits[-1])  # one sharded program at a time
        fresh = slice(done - begin, None)
        of_sets = zip(begins, stacked, firsts, strict=True)
        found.append(_host([_summary(logits, *own, true[rows], keep) for own in of_sets], fresh))
        done = begin + size
        progress(done)
    return {
        name: _outputs([batch[i] for batch in found], (weights or {}).get(name, {}), steps.get(name))
        for i, name in enumerate(sets)
    }


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


def _firsts(members: int, views: int, steps: tuple[int, ...]) -> Float[np.ndarray, "steps voters"]:
    """A row for each number of first members: their plain mean, over voters."""
    return np.stack([over_voters((np.arange(members) < m).astype(float), views) for m in steps])


@partial(jax.jit, static_argnames="keep")
def _summary(
    logits: list[Float[Array, "m b classes"]],
    begin: int | Int[Array, ""],
    rows: Float[Array | np.ndarray, "votes voters"],
    first: Float[Array | np.ndarray, "steps voters"] | None,
    true: Int[Array | np.ndarray, " b"],
    keep: bool,
) -> tuple[Any, ...]:
    """For the set whose members start at `begin`: labels [voters, b], averages [votes, b, classes], probabilities
    [voters, b, classes] or None, mutual information [1, b], and the running mean's labels and likelihoods [steps, b] or
    None. logits: of each view. Sets of one size share a program."""
    members = rows.shape[1] // len(logits)
    own = [jax.lax.dynamic_slice_in_dim(x, begin, members) for x in logits]
    voters = jnp.stack(own, axis=1).reshape(-1, *logits[0].shape[1:])
    p = jax.nn.softmax(voters, axis=-1)
    labels = jnp.argmax(voters, axis=-1).astype(jnp.int32)
    averages = jnp.tensordot(rows, p, axes=1, precision="highest")
    information = uncertainty.mutual_information(p)[None]
    return labels, averages, p if keep else None, information, *_running(first, p, true)


def _running(first: Any, p: Float[Array, "voters b classes"], true: Int[Array | np.ndarray, " b"]) -> tuple[Any, Any]:
    """Labels and likelihoods of the mean of the first members, [steps, b] each, where there are rows for them."""
    if first is None:
        return None, None
    means = jnp.tensordot(first, p, axes=1, precision="highest")
    likelihoods = jnp.take_along_axis(means, true[None, :, None], axis=2)[:, :, 0]
    return jnp.argmax(means, axis=2).astype(jnp.int32), likelihoods


def _host(summaries: list[tuple[Any, ...]], fresh: slice) -> tuple[Any, ...]:
    """The images of a batch that no batch before had, as NumPy arrays."""
    return tuple(tuple(None if x is None else np.asarray(x)[:, fresh] for x in summary) for summary in summaries)


def _outputs(batches: list[Any], weights: Weights, steps: tuple[int, ...] | None) -> Outputs:
    columns = zip(*batches, strict=True)
    whole: list[Any] = [None if parts[0] is None else np.concatenate(parts, axis=1) for parts in columns]
    labels, (mean, *others), kept, information, running, likelihoods = whole
    first = None if steps is None else Running(steps, running, likelihoods)
    return Outputs(labels, mean, dict(zip(weights, others, strict=True)), kept, information[0], first)
