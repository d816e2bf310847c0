"""What fine-tuning collectors share: the frozen part of the net, once an image and view, cached or streamed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from bend_jax import devices
from bend_jax.batch_norm import holds_statistics
from bend_jax.batching import batch_size, rows
from bend_jax.checks import DTYPES, Settings, setting
from bend_jax.collect.collector import Cost, Work
from bend_jax.operations import flops, in_bytes
from bend_jax.split import Cut, cut
from bend_jax.subset import Subset, flatten, insert
from bend_jax.training import Callbacks, Examples, Model

CHUNK = 250  # images a program while the cache is filled


class FineTuning(Settings):
    """What the settings of all collectors have in common that train the subset on features of the frozen part."""

    k: int = setting("checkpoints", default=200, least=1, shared="collect")
    views: int = setting(
        "augmented views of each image whose frozen features are cached; epoch e reads view e mod views [ours]",
        default=4,
        least=1,
        shared="collect",
    )
    batch: int = setting("images a step", default=64, least=1, shared="collect")
    cache_dtype: str = setting(
        "of the cached features; the tasks, an accelerator's, take bfloat16 [ours]",
        default="float32",
        choices=DTYPES,
        shared="collect",
    )
    momentum: float = setting("of SGD", default=0.9, least=0, below=1)
    weight_decay: float = setting("coupled: added to the gradient, as PyTorch's SGD does", default=5e-4, least=0)
    label_smoothing: float = setting(
        "the share of each target that all classes get alike", default=0.0, least=0, below=1, added=True
    )


class SubsetLoss(NamedTuple):
    """The data of a training of the subset, and how its loss reads them.

    data: a dict of device arrays for `train`; read(data, view, index, key) -> inputs: what a minibatch's logits are
    computed from, features or images; logits(vector, rest, data, inputs, key) -> ([batch, classes], rest);
    rest_of(vector, data): the BN statistics that move with the training as they are at its start, {} where they are
    frozen; vector_of(vector, rest, data): the vector with the statistics of the subset, if it has any; parts: the cut
    at the vector, None where BN trains; cache_bytes: 0 where features are streamed.
    """

    data: dict[str, Any]
    read: Callable[..., Any]
    logits: Callable[..., tuple[Any, Any]]
    rest_of: Callable[..., Any]
    vector_of: Callable[..., Any]
    parts: Cut | None
    cache_bytes: int


def prepare(
    model: Model,
    variables: Any,
    subset: Subset,
    examples: Examples,
    key: Key[Array, ""],
    settings: FineTuning,
    callbacks: Callbacks,
    *,
    drift: bool = False,
) -> SubsetLoss:
    """How the subset is trained: on the frozen part's features where BN statistics stay, else on the whole net.

    drift: all BN statistics follow the minibatches, as they also do where the subset holds some.
    """
    if drift or holds_statistics(subset):
        return _whole(model, variables, subset, examples, callbacks.mesh)
    return _features(model, variables, subset, examples, key, settings, callbacks)


def _whole(model: Model, variables: Any, subset: Subset, examples: Examples, mesh: Mesh | None) -> SubsetLoss:
    """Every step runs the whole net in training mode on newly augmented images."""
    assert model.train_apply is not None
    train_apply = model.train_apply
    data = {"labels": examples.labels, "images": examples.images, "variables": variables}

    def read(data: dict[str, Any], view: Any, index: Any, key: Any) -> Any:
        keys = jax.random.split(key, index.shape[0] + 1)
        own, images = devices.shard_rows((keys[1:], rows(data["images"], index)), mesh)
        return examples.view(own, images, view)

    def logits(vector: Any, rest: Any, data: dict[str, Any], images: Any, key: Any) -> tuple[Any, Any]:
        own = jax.random.split(key, batch_size(images) + 1)[0]
        result, new = train_apply({**insert(subset, data["variables"], vector), **rest}, images, own)
        return result, {name: new[name] for name in rest}

    def rest_of(vector: Any, data: dict[str, Any]) -> Any:
        return {k: v for k, v in insert(subset, data["variables"], vector).items() if k != "params"}

    def vector_of(vector: Any, rest: Any, data: dict[str, Any]) -> Any:
        if not holds_statistics(subset):
            return vector
        return flatten(subset, {**insert(subset, data["variables"], vector), **rest})

    return SubsetLoss(data, read, logits, rest_of, vector_of, None, 0)


def _features(
    model: Model,
    variables: Any,
    subset: Subset,
    examples: Examples,
    key: Key[Array, ""],
    settings: FineTuning,
    callbacks: Callbacks,
) -> SubsetLoss:
    """Cut the net for any number of images, and cache the features of all views where they fit into `watch.memory`.

    A view of an image is drawn from a key of its own, so that cached and streamed training see the same pixels. The
    features are stored as settings.cache_dtype either way.
    """
    n = examples.labels.shape[0]
    one = jax.eval_shape(examples.plain, jax.eval_shape(lambda x: rows(x, slice(1)), examples.images))
    vector = jax.ShapeDtypeStruct((subset.dim,), jnp.float32)
    parts = cut(lambda v, x: model.apply(insert(subset, variables, v), x), vector, one, any_batch=True)
    cache_bytes = cached_bytes(settings, parts, n)
    is_cached = cache_bytes <= callbacks.memory and not examples.are_features
    if not is_cached and not examples.are_features:
        callbacks.say(_streaming(parts, subset, one, n, cache_bytes, callbacks.memory))
    # constants alone: JAX keeps the trees of programs' arguments, and with these all that was traced for every training
    constants, halves = jax.tree.flatten((parts.prefix, parts.suffix))
    data = {"labels": examples.labels, "constants": constants}

    def features(
        constants: Any, key: Key[Array, ""], view: Int[Array, ""], index: Int[Array, " b"], images: Any
    ) -> Any:
        key_view = jax.random.fold_in(key, view)
        keys = jax.vmap(lambda i: jax.random.fold_in(key_view, i))(index)
        own, images = devices.shard_rows((keys, rows(images, index)), callbacks.mesh)
        seen = jax.tree.map(lambda x, like: x.astype(like.dtype), examples.view(own, images, view), one)
        prefix, _ = jax.tree.unflatten(halves, constants)
        return narrowed(prefix(seen), settings.cache_dtype)

    shapes = jax.eval_shape(parts.prefix, one)
    if is_cached:
        data["cache"] = _fill(features, constants, key, settings.views, n, examples.images, callbacks.mesh)
    else:
        data |= {"images": examples.images, "view_key": key}

    def read(data: dict[str, Any], view: Any, index: Any, key: Any) -> Any:
        if not is_cached:
            return features(data["constants"], data["view_key"], view, index, data["images"])
        return devices.shard_rows(jax.tree.map(lambda cache: cache[view, index], data["cache"]), callbacks.mesh)

    def logits(vector: Any, rest: Any, data: dict[str, Any], values: Any, key: Any) -> tuple[Any, Any]:
        values = jax.tree.map(lambda value, shape: value.astype(shape.dtype), values, shapes)
        _, suffix = jax.tree.unflatten(halves, data["constants"])
        return suffix(vector, values), rest

    are_here = examples.are_features and bool(jax.tree.leaves(examples.images))  # on the device
    size = cache_bytes if is_cached or are_here else 0
    return SubsetLoss(data, read, logits, lambda vector, data: {}, lambda vector, rest, data: vector, parts, size)


def _fill(
    features: Callable[..., Any], constants: Any, key: Any, views: int, n: int, images: Any, mesh: Mesh | None
) -> Any:
    """The features of every view and image, [views, n, ...]: one buffer, filled a chunk of images at a time."""
    chunk = devices.multiple(min(CHUNK * devices.count(mesh), n), mesh)

    @partial(jax.jit, donate_argnums=0, out_shardings=devices.everywhere(mesh))
    def put(cache: Any, constants: Any, key: Any, images: Any, view: Int[Array, ""], begin: Int[Array, ""]) -> Any:
        values = devices.gather(features(constants, key, view, begin + jnp.arange(chunk), images), mesh)
        return jax.tree.map(
            lambda c, v: jax.lax.dynamic_update_slice(c, v[None], (view, begin, *[0] * (v.ndim - 1))), cache, values
        )

    shapes = jax.eval_shape(features, constants, key, jnp.asarray(0), jnp.arange(chunk), images)
    cache = devices.replicate(jax.tree.map(lambda x: jnp.zeros((views, n, *x.shape[1:]), x.dtype), shapes), mesh)
    for view in range(views):
        for begin in range(0, n, chunk):
            begin = min(begin, n - chunk)  # the last chunk fills some rows again, so that all chunks have one shape
            cache = put(cache, constants, key, images, jnp.asarray(view), jnp.asarray(begin))
            if mesh is not None:
                jax.block_until_ready(cache)  # see training.train: one sharded program at a time
    return cache


def optimizer(subset: Subset, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` on a vector or a stack of them, BN statistics in it excepted: no gradient and no decay moves them."""
    parts = [
        jnp.full(math.prod(shape), path.startswith("params."), jnp.float32)
        for path, shape in zip(subset.paths, subset.shapes, strict=True)
    ]
    mask = jnp.concatenate(parts)
    keep_statistics = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u * jnp.broadcast_to(mask, u.shape), updates)
    )
    return optax.chain(tx, keep_statistics)


def narrowed(features: Any, dtype: str) -> Any:
    """Floating-point features as they are cached; whole numbers and booleans stay as they are."""
    return jax.tree.map(lambda f: f.astype(dtype) if jnp.issubdtype(f.dtype, jnp.floating) else f, features)


def cached_bytes(settings: FineTuning, parts: Cut, images: int) -> int:
    """Of the features of all views of so many images."""
    shapes = [jax.ShapeDtypeStruct(*x) for x in zip(parts.feature_shapes, parts.feature_dtypes, strict=True)]
    kept = jax.eval_shape(lambda x: narrowed(x, settings.cache_dtype), shapes)
    return settings.views * images * sum(math.prod(x.shape) * x.dtype.itemsize for x in kept)


def _streaming(parts: Cut, subset: Subset, one: Any, n: int, needed: int, memory: int) -> str:
    """The line that says that features are streamed, and what that costs."""
    vector = jax.ShapeDtypeStruct((subset.dim,), jnp.float32)

    def tail(suffix: Any, vector: Any, features: Any) -> Any:
        return jax.grad(lambda v: jnp.sum(suffix(v, features).astype(jnp.float32)))(vector)

    first = flops(lambda prefix, x: prefix(x), parts.prefix, one)
    step = flops(tail, parts.suffix, vector, jax.eval_shape(parts.prefix, one))
    return (
        f"the frozen features of {n:,} images take {in_bytes(needed)} and {in_bytes(memory)} are allowed: they are "
        f"computed anew in every step, at about {(first + step) / max(step, 1):.3g} times the operations of a step "
        "on cached ones"
    )


def fine_tuning_cost(settings: FineTuning, work: Work, epochs: int, passes: int, *, drift: bool = False) -> Cost:
    """Of a training of the subset over `epochs` epochs that reads streamed features in `passes` of them; the frozen
    part runs once a view where they are cached. Where BN statistics move every step is one of the whole network."""
    ops = work.operations
    if drift or work.moves_statistics:
        return Cost(work.images * epochs * ops.step)
    size = cached_bytes(settings, ops.parts, work.images)
    fills = settings.views if size <= work.memory else passes
    return Cost(work.images * (fills * (ops.forward - ops.suffix) + epochs * ops.suffix_step), size)
