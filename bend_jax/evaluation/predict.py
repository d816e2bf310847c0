"""Every vector of several sets on many images: one program a batch, the frozen part once an image and view."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from bend_jax import devices, ensemble
from bend_jax.evaluation import uncertainty
from bend_jax.split import cut
from bend_jax.subset import Subset, insert
from bend_jax.training import SILENT, Callbacks, NonFiniteError

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
    information (`uncertainty.mutual_information`); running: where it was asked for; pools: the voters' logarithmic
    opinion pool (`ensemble.pool_vote`) as "pool", and that of each of the other weights as "<name>_pool"; energy and
    max_logit: of the voters' mean logits, as `uncertainty.energy` and as minus the largest.
    """

    predictions: Int[np.ndarray, "voters n"]
    mean: Float[np.ndarray, "n classes"]
    weighted: dict[str, Float[np.ndarray, "n classes"]]
    probabilities: Float[np.ndarray, "voters n classes"] | None = None
    information: Float[np.ndarray, " n"] | None = None
    running: Running | None = None
    pools: dict[str, Float[np.ndarray, "n classes"]] = {}  # noqa: RUF012
    energy: Float[np.ndarray, " n"] | None = None
    max_logit: Float[np.ndarray, " n"] | None = None


class Wanted(NamedTuple):
    """What `predict` is to return besides labels and means, each by the name of a set.

    weights: further averages; keep: every voter's probabilities, of all sets; running: for how many of a set's first
    members to return `Running`, for which the true labels [n] are needed.
    """

    weights: dict[str, Weights] = {}  # noqa: RUF012
    keep: bool = False
    running: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    labels: Int[np.ndarray, " n"] | None = None


class Summary(NamedTuple):
    """What is kept of one set on a batch of b images; None: not asked for."""

    labels: Any  # [voters, b]
    averages: Any  # [votes, b, classes]: the plain mean, then those of its weights
    pools: Any  # [votes, b, classes]: the pools of the same weights
    probabilities: Any  # [voters, b, classes]
    doubt: Any  # [3, b]: mutual information, energy and minus the largest logit, the latter two of the mean logits
    running_labels: Any  # [steps, b]
    running_likelihoods: Any  # [steps, b]


def predict(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    sets: dict[str, Any],
    images: Callable[[slice, str], Any],
    n: int,
    *,
    batch: int,
    views: tuple[str, ...] = ("identity",),
    wanted: Wanted = Wanted(),  # noqa: B008
    callbacks: Callbacks = SILENT,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Outputs]:
    """Run every vector of every set on n images and each of their views.

    images(slice, view) gives them as `apply` takes them; the last batch is filled up with the last images again;
    progress(images done): after each batch. Raises ValueError for running votes without labels, and for weights that
    are not one for each member; NonFiniteError for a set of which a member's probabilities are no numbers.
    """
    if wanted.running and wanted.labels is None:
        raise ValueError(f"running votes of {', '.join(wanted.running)} need the true labels")
    rows_of = _rows(sets, len(views), wanted)
    true = np.zeros(n, np.int32) if wanted.labels is None else wanted.labels
    found: dict[str, list[Summary]] = {name: [] for name in sets}
    for rows, new, logits in _batches(apply, variables, subset, sets, images, n, batch, views, callbacks, progress):
        how = (true[rows], wanted.keep, callbacks.mesh)
        summaries = {name: _settled(_summary(logits, *own, *how), callbacks.mesh) for name, own in rows_of.items()}
        for name, summary in summaries.items():  # of the images that no batch before had
            found[name].append(jax.tree.map(lambda x, new=new: np.asarray(x)[:, new:], summary))
    all_ = {name: _outputs(own, wanted.weights.get(name, {}), wanted.running.get(name)) for name, own in found.items()}
    for name, outputs in all_.items():
        if not np.isfinite(outputs.mean).all():
            raise NonFiniteError(name, "logits of its vectors")
    return all_


def labels(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    sets: dict[str, Any],
    images: Callable[[slice, str], Any],
    n: int,
    *,
    batch: int,
    views: tuple[str, ...] = ("identity",),
    callbacks: Callbacks = SILENT,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Int[np.ndarray, "voters n"]]:
    """Only the labels of what `predict` returns, with its arguments and errors, by one small program for all sets."""
    found: list[Any] = []
    for _, new, logits in _batches(apply, variables, subset, sets, images, n, batch, views, callbacks, progress):
        own, is_finite = jax.device_get(_labels(logits, callbacks.mesh))
        found.append((own[..., new:], is_finite))
    every, is_finite = np.concatenate([x for x, _ in found], axis=2), np.all([x for _, x in found], axis=0)
    ends = np.cumsum([len(vectors) for vectors in sets.values()])[:-1]
    result: dict[str, Any] = {}
    for name, own, good in zip(sets, np.split(every, ends), np.split(is_finite, ends), strict=True):
        if not good.all():
            raise NonFiniteError(name, "logits of its vectors")
        result[name] = own.reshape(-1, n)
    return result


@partial(jax.jit, static_argnames="mesh")
def _labels(
    logits: list[Float[Array, "m b classes"]], mesh: Mesh | None
) -> tuple[Int[Array, "m views b"], Bool[Array, " m"]]:
    """Of each view, and whether all of a member's probabilities are numbers."""
    stacked = jnp.stack(devices.shard_rows(logits, mesh, axis=1), axis=1)
    labels, is_finite = jnp.argmax(stacked, axis=-1).astype(jnp.int32), jnp.isfinite(jnp.max(stacked, axis=-1))
    return devices.gather((labels, is_finite.all(axis=(1, 2))), mesh, axis=2)


def _settled(found: Any, mesh: Mesh | None) -> Any:
    """What a program gives; of one over several devices once it is there: one sharded program at a time."""
    return found if mesh is None else jax.block_until_ready(found)


def _batches(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    sets: dict[str, Any],
    images: Callable[[slice, str], Any],
    n: int,
    batch: int,
    views: tuple[str, ...],
    callbacks: Callbacks,
    progress: Callable[[int], None],
) -> Iterator[tuple[slice, int, list[Any]]]:
    """(images of a batch, how many of the first ones a batch before had, all vectors' logits at each view)."""
    mesh = callbacks.mesh
    variables = devices.replicate(variables, mesh)
    vectors = devices.replicate(jnp.concatenate(list(sets.values())), mesh)
    size = devices.multiple(min(batch, n), mesh)
    first = devices.replicate(images(slice(0, size), views[0]), mesh)
    run = _compiled(apply, variables, subset, vectors, first, callbacks)
    done = 0
    while done < n:
        begin = min(done, n - size)
        rows, logits = slice(begin, begin + size), []
        for view in views:
            logits.append(_settled(run(variables, vectors, devices.replicate(images(rows, view), mesh)), mesh))
        yield rows, done - begin, logits
        done = begin + size
        progress(done)


def _compiled(
    apply: Callable[..., Any], variables: Any, subset: Subset, vectors: Any, first: Any, callbacks: Callbacks
) -> Callable[..., Any]:
    """The program that gives all vectors' logits for a batch like the first one, as many members at once as fit."""
    mesh = callbacks.mesh
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), vectors[0], first)
    chunk = min(ensemble.chunk_size(parts, callbacks.memory), -(-len(vectors) // devices.count(mesh)))
    started = time.perf_counter()
    run = ensemble.member_logits.lower(apply, variables, subset, vectors, first, chunk=chunk, mesh=mesh).compile()
    callbacks.compiled("evaluate", time.perf_counter() - started)
    return run


def _rows(sets: dict[str, Any], views: int, wanted: Wanted) -> dict[str, tuple[int, Any, Any]]:
    """(first vector, rows of its votes, rows of its running means or None) of every set, as `_summary` takes them."""
    found, begin = {}, 0
    for name, vectors in sets.items():
        m, steps = len(vectors), wanted.running.get(name)
        votes = _stack(m, views, wanted.weights.get(name, {}))
        found[name] = (begin, votes, None if steps is None else _firsts(m, views, steps))
        begin += m
    return found


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


@partial(jax.jit, static_argnames=("keep", "mesh"))
def _summary(
    logits: list[Float[Array, "m b classes"]],
    begin: int | Int[Array, ""],
    rows: Float[Array | np.ndarray, "votes voters"],
    first: Float[Array | np.ndarray, "steps voters"] | None,
    true: Int[Array | np.ndarray, " b"],
    keep: bool,
    mesh: Mesh | None = None,
) -> Summary:
    """Of the set whose members start at `begin`. logits: of each view. Sets of one size share a program. Devices share
    the images."""
    logits = devices.shard_rows(logits, mesh, axis=1)
    members = rows.shape[1] // len(logits)
    own = [jax.lax.dynamic_slice_in_dim(x, begin, members) for x in logits]
    voters = jnp.stack(own, axis=1).reshape(-1, *logits[0].shape[1:])
    p = jax.nn.softmax(voters, axis=-1)
    labels = jnp.argmax(voters, axis=-1).astype(jnp.int32)
    averages = jnp.tensordot(rows, p, axes=1, precision="highest")
    pools = jax.vmap(ensemble.pool_vote, (None, 0))(voters, jnp.asarray(rows))
    mean = jnp.mean(voters, axis=0)
    doubt = jnp.stack([uncertainty.mutual_information(p), uncertainty.energy(mean), -jnp.max(mean, axis=1)])
    found = Summary(labels, averages, pools, p if keep else None, doubt, *_running(first, p, true))
    return devices.gather(found, mesh, axis=1)


def _running(first: Any, p: Float[Array, "voters b classes"], true: Int[Array | np.ndarray, " b"]) -> tuple[Any, Any]:
    """Labels and likelihoods of the mean of the first members, [steps, b] each, where there are rows for them."""
    if first is None:
        return None, None
    means = jnp.tensordot(first, p, axes=1, precision="highest")
    likelihoods = jnp.take_along_axis(means, true[None, :, None], axis=2)[:, :, 0]
    return jnp.argmax(means, axis=2).astype(jnp.int32), likelihoods


def _outputs(batches: list[Summary], weights: Weights, steps: tuple[int, ...] | None) -> Outputs:
    """The batches of one set, one after the other."""
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *batches)
    mean, *others = whole.averages
    running = None if steps is None else Running(steps, whole.running_labels, whole.running_likelihoods)
    weighted = dict(zip(weights, others, strict=True))
    pools = dict(zip(("pool", *(f"{name}_pool" for name in weights)), whole.pools, strict=True))
    information, *of_logits = whole.doubt
    return Outputs(whole.labels, mean, weighted, whole.probabilities, information, running, pools, *of_logits)


def of_logits(logits: Float[np.ndarray, "m n classes"], wanted: Wanted, name: str, batch: int = 500) -> Outputs:
    """What `predict` returns of one set, from its members' logits themselves. name: of the set, in `wanted`."""
    m, n, _ = logits.shape
    steps, true = wanted.running.get(name), wanted.labels
    rows = _stack(m, 1, wanted.weights.get(name, {}))
    first = None if steps is None else _firsts(m, 1, steps)
    true, found = np.zeros(n, np.int32) if true is None else true, []
    for begin in range(0, n, batch):
        images = slice(begin, begin + batch)
        own = _summary([jnp.asarray(logits[:, images])], 0, rows, first, true[images], wanted.keep)
        found.append(jax.tree.map(np.asarray, own))
    return _outputs(found, wanted.weights.get(name, {}), steps)
