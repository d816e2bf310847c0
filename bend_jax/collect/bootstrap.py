"""Bagging in Breiman's sense: k fine-tunings of the subset side by side, each on its own bootstrap resample [ours]."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt16

from bend_jax import devices
from bend_jax.checks import SettingsError, setting
from bend_jax.collect.collector import Checkpoints, Collector, Cost, Problem, Work, check_batch, check_init
from bend_jax.collect.frozen_features import FineTuning, SubsetLoss, fine_tuning_cost, optimizer, prepare
from bend_jax.minibatches import batch_of, shuffled
from bend_jax.recipe import sgd
from bend_jax.split import Cut
from bend_jax.subset import Subset, flatten
from bend_jax.training import (
    SEGMENT,
    SILENT,
    Callbacks,
    Examples,
    Model,
    State,
    losses_of,
    make_step,
    start,
    train,
)

NAME = "bootstrap"  # of the collector, and of its training to callbacks


class Bootstrap(FineTuning):
    """Bagging in Breiman's sense [ours]: k fine-tunings from the base, each on its own bootstrap resample."""

    epochs: int = setting("of each checkpoint, from the base, on its own resample", default=2, least=1)
    lr: float = setting("learning rate of each fine-tuning", default=0.05, above=0)
    resample: bool = setting("False: each one sees the whole training set", default=True)
    reinitialise: bool = setting("start from fresh random values of the subset instead: a tree ensemble", default=False)
    perturb: float = setting(
        "p of a start sqrt(1 - p^2) w + p std(w) eps, leaf by leaf; 0 with reinitialise", default=0.0, least=0, most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.perturb and self.reinitialise:
            raise SettingsError(f"perturb must be 0 with reinitialise; got {self.perturb}")


@partial(jax.jit, static_argnames=("k", "n"))
def resamples(key: Key[Array, ""], k: int, n: int) -> UInt16[Array, "k n"]:
    """How often each of n images is in each of k bootstrap resamples: k multinomials of n draws."""

    def one(key: Key[Array, ""]) -> UInt16[Array, " n"]:
        return jnp.zeros(n, jnp.uint16).at[jax.random.randint(key, (n,), 0, n)].add(1)

    return jax.lax.map(one, jax.random.split(key, k))


@partial(jax.jit, static_argnames=("model", "subset", "settings"))
def start_vectors(
    model: Model, variables: Any, subset: Subset, key: Key[Array, ""], settings: Bootstrap
) -> Float[Array, "k dim"]:
    """Where the k fine-tunings start: the base's vector, one with noise in it, or fresh random ones. Adapters start
    from a random A of each one's own: with one A for all, and B zero, all would start alike."""
    base = flatten(subset, variables)
    keys = jax.random.split(key, settings.k)
    if not settings.reinitialise:
        ends = np.cumsum([math.prod(shape) for shape in subset.shapes])[:-1]
        sd = jnp.concatenate([jnp.full(part.shape, jnp.std(part)) for part in jnp.split(base, ends)])
        moves = jnp.concatenate(
            [jnp.full(math.prod(s), p.startswith("params.")) for p, s in zip(subset.paths, subset.shapes, strict=True)]
        )
        p = settings.perturb
        starts = jax.vmap(lambda k: flatten(subset, variables, k))(keys)
        noise = jax.vmap(lambda k: jax.random.normal(k, base.shape, base.dtype))(keys)
        noisy = jnp.sqrt(1 - p**2) * starts + p * sd[None] * noise
        return jnp.where(moves[None], noisy, starts)
    assert model.init is not None
    init = model.init
    return jax.lax.map(lambda k: flatten(subset, init(k), k), keys)


def _at_once(settings: Bootstrap, source: SubsetLoss, callbacks: Callbacks) -> int:
    """Members that a device trains at once: as many as fit. One where a convolution's kernel depends on the vector:
    vmap would make slow grouped convolutions of them."""
    if source.parts is None or source.parts.has_vector_kernel:
        return 1
    fitting = (callbacks.memory - source.cache_bytes) // max(_trained_bytes(settings, source.parts), 1)
    return max(1, min(-(-settings.k // devices.count(callbacks.mesh)), fitting))


def _trained_bytes(settings: Bootstrap, parts: Cut) -> int:
    """Of one member's step: forward, backward and the optimiser keep about three times what the suffix writes."""
    return 3 * settings.batch * parts.suffix_bytes


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Bootstrap,
    *,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """k vectors [k, dim]. A resample is a weight: all k see the same minibatch, member b multiplies the loss of image i
    by its multinomial count c[b, i], so that features are read once for all k.

    Members are trained in chunks that fit callbacks.memory, one chunk after the other in one program. A training that
    goes on on another number of devices keeps the chunks that it began with.
    """
    n, mesh = data.labels.shape[0], callbacks.mesh
    key_views, key_order, key_steps, key_counts, key_init = jax.random.split(key, 5)
    source = prepare(model, variables, subset, data, key_views, settings, callbacks)
    per_epoch = n // settings.batch
    steps = settings.epochs * per_epoch  # of one chunk
    most = _at_once(settings, source, callbacks)
    drawn = resamples(key_counts, settings.k, n) if settings.resample else np.ones((settings.k, n), np.uint16)
    vectors = start_vectors(model, variables, subset, key_init, settings)
    arrays = {**source.data, "key": key_steps, "order": key_order, "counts": jnp.asarray(drawn), "start": vectors}
    arrays = devices.replicate(arrays, mesh)
    tx = optimizer(subset, sgd(settings.lr, settings.momentum, settings.weight_decay))
    chunk = min(most * devices.count(mesh), settings.k)
    first, chunk = _resumed(source, tx, vectors, arrays, steps, chunk, callbacks)

    def one(vector: Any, rest: Any, weight: UInt16[Array, " b"], own: Any, inputs: Any, labels: Any, key: Any) -> Any:
        logits, rest = source.logits(vector, rest, own, inputs, key)
        return jnp.mean(weight * losses_of(model, logits, labels, settings.label_smoothing)), rest

    members = devices.over_members(_some_at_a_time(jax.vmap(one, (0, 0, 0, *[None] * 4)), most), mesh, 3)

    def loss(params: Any, extra: Any, arrays: Any, key: Any, step: Any) -> tuple[Array, Any]:
        local = step % steps  # every chunk sees the same minibatches in the same order,
        key = jax.random.fold_in(arrays["key"], local)  # augmented alike
        index = batch_of(local, extra["order"], settings.batch)
        view = (local // per_epoch) % settings.views
        own_rows = _rows_of(step // steps, chunk, len(params), settings.k)
        weights = arrays["counts"].at[own_rows[:, None], index[None]].get(mode="fill", fill_value=0)
        inputs = devices.gather(source.read(arrays, view, index, key), mesh)
        own = {name: arrays[name] for name in source.data}
        losses, rest = members(params, extra["rest"], weights, own, inputs, arrays["labels"][index], key)
        # a sum over members: each one's gradient is its own, as if it were trained alone
        return jnp.sum(losses), {**extra, "rest": rest}

    state = train(
        NAME,
        make_step(loss, tx),
        first,
        arrays,
        steps=-(-settings.k // chunk) * steps,
        segment=per_epoch,
        longest=SEGMENT,
        callbacks=callbacks._replace(resume=lambda name, state, steps: state),
        before=lambda state, done: shuffled(state, arrays, done % steps // per_epoch),
        after=_saver(source, tx, steps, chunk),
    )
    return Checkpoints(state.extra["saved"][: settings.k])


def _rows_of(number: Any, chunk: int, width: int, k: int) -> Array:
    """The members of a chunk, counted from 0; k for the idle ones that fill the devices up."""
    place = jnp.arange(width)
    return jnp.where(place < chunk, number * chunk + place, k)


def _some_at_a_time(members: Any, most: int) -> Any:
    """The same program on at most `most` members at once. There are more where a training goes on on fewer devices
    than it began on: then each part's forward pass is computed again for its gradient, so that memory stays bounded."""

    def run(*arguments: Any) -> Any:
        own, shared = arguments[:3], arguments[3:]
        if len(own[0]) <= most:
            return members(*arguments)
        again = jax.checkpoint(members)
        parts = [
            again(*jax.tree.map(lambda x, i=i: x[i : i + most], own), *shared) for i in range(0, len(own[0]), most)
        ]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    return run


def _resumed(
    source: SubsetLoss,
    tx: Any,
    vectors: Float[Array, "k dim"],
    arrays: Any,
    steps: int,
    chunk: int,
    callbacks: Callbacks,
) -> tuple[State, int]:
    """The state to go on from, and members of a chunk: `chunk`, or what a saved state began with on other devices."""
    k, shares = len(vectors), devices.count(callbacks.mesh)
    order = jnp.zeros(arrays["counts"].shape[1], jnp.int32)

    def first(chunk: int) -> State:
        members = vectors.at[_rows_of(0, chunk, -(-chunk // shares) * shares, k)].get(mode="clip")
        own = start(members, tx, _rest_of(source, members, arrays))
        saved = jnp.zeros((-(-k // chunk) * chunk, vectors.shape[1]), vectors.dtype)
        return own._replace(extra={"order": order, "saved": saved, "chunk": jnp.int32(chunk), "rest": own.extra})

    found = callbacks.resume(NAME, first(chunk), -(-k // chunk) * steps)
    began = int(found.extra["chunk"])
    if began != chunk:  # as many steps as that takes
        found = callbacks.resume(NAME, first(began), -(-k // began) * steps)
    width, old = -(-began // shares) * shares, len(found.params)

    def widened(x: Any) -> Any:
        return jnp.asarray(x)[np.minimum(np.arange(width), began - 1)] if x.shape[:1] == (old,) else x

    own = found._replace(extra=found.extra["rest"])
    own = devices.place_rows(jax.tree.map(widened, own) if width != old else own, callbacks.mesh, width)
    shared = {name: found.extra[name] for name in ("order", "saved", "chunk")}
    return own._replace(extra={**devices.replicate(shared, callbacks.mesh), "rest": own.extra}), began


def _rest_of(source: SubsetLoss, params: Float[Array, "chunk dim"], arrays: Any) -> Any:
    """The BN statistics that each member of a chunk starts with."""
    return jax.vmap(lambda vector: source.rest_of(vector, arrays))(params)


def _saver(source: SubsetLoss, tx: Any, steps: int, chunk: int) -> Any:
    """What follows a chunk's `steps` steps: its vectors are saved, and the next chunk starts."""

    def next_chunk(state: State, arrays: Any) -> State:
        number = state.step // steps
        vector_of = jax.vmap(lambda vector, rest: source.vector_of(vector, rest, arrays))
        done = vector_of(state.params, state.extra["rest"])[:chunk]
        saved = jax.lax.dynamic_update_slice_in_dim(state.extra["saved"], done, (number - 1) * chunk, 0)
        own_rows = _rows_of(number, chunk, len(state.params), len(arrays["start"]))
        params = arrays["start"].at[own_rows].get(mode="clip")
        extra = {**state.extra, "saved": saved, "rest": _rest_of(source, params, arrays)}
        return state._replace(params=params, opt=tx.init(params), extra=extra)

    def after(state: State, arrays: Any) -> State:
        return jax.lax.cond(state.step % steps == 0, lambda s: next_chunk(s, arrays), lambda s: s, state)

    return after


def needs(settings: Bootstrap, problem: Problem) -> None:
    """Raise SettingsError for what it cannot do. Devices share members, not minibatches."""
    if settings.reinitialise:
        check_init(problem.model)
    check_batch(settings.batch, problem.images)


def cost(settings: Bootstrap, work: Work) -> Cost:
    """k times the epochs. Features are read once for all members that one device trains at once: for each of them where
    a convolution's kernel depends on the vector."""
    parts = work.operations.parts
    most = 1 if parts.has_vector_kernel else max(1, work.memory // max(_trained_bytes(settings, parts), 1))
    readers = -(-settings.k // most)
    found = fine_tuning_cost(settings, work, settings.k * settings.epochs, settings.epochs * readers)
    is_chunked = not parts.has_vector_kernel and not work.moves_statistics
    return found._replace(trained_bytes=settings.k * _trained_bytes(settings, parts) if is_chunked else 0)


COLLECTOR = Collector(NAME, Bootstrap(), collect, needs, cost)
