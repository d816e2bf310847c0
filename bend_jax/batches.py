"""Data that does not fit the device: batches of labelled images, read once for the features of the frozen part."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices
from bend_jax.batching import batch_size, rows
from bend_jax.checks import SettingsError
from bend_jax.collect.frozen_features import FineTuning, cached_bytes, narrowed
from bend_jax.example import Example, as_arrays
from bend_jax.labelled import Like, check_images, count_classes, device_labels
from bend_jax.operations import in_bytes
from bend_jax.split import cut
from bend_jax.subset import Subset, flatten, insert
from bend_jax.training import Callbacks, Examples, Model

ENDLESS = 2**40  # batches; loaders that repeat for ever name a number beyond it


class Batches(NamedTuple):
    """Pairs (images [b, ...], labels [b]) from any iterable, such as a loader of grain.

    first: the first pair; all: an iterable over all of them; total: how many, None where the loader does not know.
    """

    first: Any
    all: Iterable[Any]
    total: int | None


def look(given: Any) -> Batches:
    """The first batch, and all of them: one that can be iterated but once loses none. Raises SettingsError."""
    if hasattr(given, "shape") or isinstance(given, dict | str) or not hasattr(given, "__iter__"):
        raise SettingsError(
            "data are images and labels, or one iterable of batches (images, labels); "
            f"one {type(given).__name__} came: are the labels missing?"
        )
    iterator = iter(given)
    first = next(iterator, None)
    if first is None:
        raise SettingsError("the iterable of batches is empty: it was read before, or there is no data")
    if isinstance(first, dict):
        names = ", ".join(map(repr, first))
        raise SettingsError(
            f"a batch is a pair (images, labels); dicts with {names} came: map them, such as "
            '((batch["image"], batch["label"]) for batch in loader)'
        )
    try:
        total = len(given)
    except (TypeError, NotImplementedError):
        total = None
    if total is not None and total > ENDLESS:
        raise SettingsError("the iterable of batches has no end: give one pass over the data, without repeat()")
    return Batches(first, itertools.chain([first], iterator) if iterator is given else given, total)


class _Buffer:
    """Rows that come one batch after the other, in arrays with room for twice what was there when they were full."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.n, self.arrays = capacity, 0, None

    def add(self, batch: Any) -> None:
        """More rows [b, ...]."""
        n = self.n + batch_size(batch)
        if self.arrays is None or n > self.capacity:
            self.capacity = max(n, self.capacity if self.arrays is None else 2 * self.capacity)
            old = self.arrays
            self.arrays = jax.tree.map(lambda x: np.empty((self.capacity, *x.shape[1:]), x.dtype), batch)
            if old is not None:
                jax.tree.map(lambda new, x: np.copyto(new[: self.n], x[: self.n]), self.arrays, old)
        jax.tree.map(lambda kept, x: np.copyto(kept[self.n : n], x), self.arrays, batch)
        self.n = n

    def filled(self) -> Any:
        """All rows."""
        return jax.tree.map(lambda x: x[: self.n], self.arrays)


@jax.tree_util.register_static
class OnHost:
    """Rows that stay in the host's memory: a program that asks for some of them gets these from there."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays

    def fetch(self, index: Any) -> Any:
        """These rows of every array, on the device. index: a slice, or an array inside of a program."""
        if isinstance(index, slice):
            return jax.tree.map(lambda x: jnp.asarray(x[index]), self.arrays)
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*index.shape, *x.shape[1:]), x.dtype), self.arrays)
        return jax.pure_callback(lambda i: jax.tree.map(lambda x: x[np.asarray(i)], self.arrays), wanted, index)


def read(
    model: Model,
    variables: Any,
    subset: Subset,
    batches: Batches,
    view: Callable[..., Any],
    settings: Any,
    key: Any,
    callbacks: Callbacks,
    each: Callable[..., Iterable[Any]],
) -> tuple[Model, Examples]:
    """The network from the frozen part's features on, and these features with their labels: what a collector trains on
    as it does on a whole network and images.

    The frozen part runs on every batch once for each of settings.views views, which are kept as settings.cache_dtype
    says: on the device where they fit callbacks.memory, else in the host's memory. Raises SettingsError for a batch
    that is not like the first one.
    """
    kept = settings if isinstance(settings, FineTuning) else FineTuning(k=1, views=1)
    first, example = as_arrays(batches.first[0]), Example.of(as_arrays(batches.first[0]))
    size = batch_size(first)
    like = Like(example, count_classes(model, variables, example, "images"), np.ndim(batches.first[1]))
    vector = jax.ShapeDtypeStruct((subset.dim,), jnp.float32)
    parts = cut(lambda v, x: model.apply(insert(subset, variables, v), x), vector, example.batch(1), any_batch=True)
    shapes = jax.eval_shape(parts.prefix, example.batch(1))
    each_image = cached_bytes(kept, parts, 1)
    callbacks.say(_memory_line(each_image, size, batches.total, callbacks.memory))

    @jax.jit
    def features(prefix: Any, images: Any, begin: Any) -> Any:
        def one(index: Any) -> Any:
            own = jax.random.fold_in(key, index)
            keys = jax.vmap(lambda i: jax.random.fold_in(own, i))(begin + jnp.arange(size))
            return narrowed(prefix(view(keys, images, index)), kept.cache_dtype)

        return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *[one(jnp.int32(i)) for i in range(kept.views)])

    found, labels = _Buffer(size * (batches.total or 1)), []
    for number, batch in enumerate(each(batches.all, "frozen features", batches.total)):
        images, own = check_images(model, variables, batch, f"batch {number} of the images", soft=True, like=like)
        labels.append(own)
        for begin in range(0, len(own), size):
            part = jax.tree.map(np.asarray, rows(images, slice(begin, begin + size)))
            b = batch_size(part)
            full = jax.tree.map(lambda x, b=b: np.pad(x, ((0, size - b), *[(0, 0)] * (x.ndim - 1)), mode="edge"), part)
            values = features(parts.prefix, full, jnp.int32(found.n))
            found.add(jax.tree.map(lambda x, b=b: np.asarray(x[:b]), values))
    arrays = _placed(found, each_image, callbacks)

    def apply(variables: Any, values: Any) -> Any:
        return parts.suffix(flatten(subset, variables), values)

    def seen(keys: Any, values: Any, index: Any) -> Any:
        return jax.tree.map(lambda x, shape: x[:, index].astype(shape.dtype), values, shapes)

    targets = np.concatenate(labels)
    examples = Examples(arrays, device_labels(targets), seen, lambda values: seen(None, values, 0), are_features=True)
    return Model(apply, init=model.init, loss=model.loss), examples


def _placed(found: _Buffer, each_image: int, callbacks: Callbacks) -> Any:
    """The features on the device where they fit, else in the host's memory, which is said."""
    if found.n * each_image <= callbacks.memory:
        return jax.tree.map(jnp.asarray, found.filled())
    if devices.count(callbacks.mesh) > 1:
        raise SettingsError(
            f"the features take {in_bytes(found.n * each_image)} on each of several devices and "
            f"{in_bytes(callbacks.memory)} are allowed: give a smaller subset, fewer views, bfloat16 or more memory"
        )
    callbacks.say(
        f"the frozen features of {found.n:,} images take {in_bytes(found.n * each_image)} and "
        f"{in_bytes(callbacks.memory)} are allowed on the device: they stay in the host's memory, and every epoch "
        "moves all of them to the device"
    )
    return OnHost(found.filled())


def _memory_line(each_image: int, size: int, count: int | None, memory: int) -> str:
    """What the features will take, before the first is computed."""
    line = f"frozen features: {in_bytes(each_image)} an image"
    if count is not None:
        line += f", {in_bytes(each_image * size * count)} for {count} batches of {size}"
    return f"{line}; {in_bytes(memory)} on the device, enough for {memory // max(each_image, 1):,} images"
