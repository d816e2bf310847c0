"""Labelled images and the network that takes them, checked before any training: what came, what was expected."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError, ModifyScopeVariableError

from bend_jax.batching import batch_dependence, named_leaves, rows
from bend_jax.checks import SettingsError
from bend_jax.example import Example, as_arrays
from bend_jax.split import unread
from bend_jax.subset import Subset, insert_leaves
from bend_jax.training import Model

TRIED = 32  # images, at most, on which the network is tried before training
# what a function raises that is traced for the wrong input
REFUSED = (TypeError, ValueError, LookupError, AttributeError, FlaxError)


class Like(NamedTuple):
    """What is known of the images and labels that others must be like."""

    example: Example
    classes: int
    label_axes: int


def check_images(
    model: Model, variables: Any, data: Any, name: str, *, soft: bool = False, like: Like | None = None
) -> tuple[Any, np.ndarray]:
    """(images, labels): a tree of arrays [n, ...] with one leading axis, and n labels; soft: labels may be
    probabilities [n, classes]; like: of images that were checked before, so that the network is not traced again.
    Raises SettingsError for what the network cannot take, or labels that do not fit."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise SettingsError(f"{name} are given as (images, labels); got {type(data).__name__}")
    images, labels = as_arrays(data[0]), column(np.asarray(as_arrays(data[1])))
    leaves = named_leaves(images)
    is_soft = soft and labels.ndim == 2 and np.issubdtype(labels.dtype, np.floating)
    if all(x.ndim == 0 for _, x in leaves) or not (
        is_soft or (labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer))
    ):
        raise SettingsError(
            f"{name}: labels must be a row of whole numbers, one for each image"
            + (", or probabilities [n, classes]" if soft else "")
            + f"; {labels.dtype}{list(labels.shape)} came{advice(labels)}"
        )
    _check_arrays(leaves, name)
    count = leaves[0][1].shape[0]
    if count != len(labels):
        raise SettingsError(
            f"{name}: there are {count} images and {len(labels)} labels; one label for each image is needed"
            + (" (a single image needs a batch axis: images[None])" if len(labels) == 1 else "")
            + (
                " (a list is a tree of inputs: of images of one shape np.stack makes one array)"
                * (type(images) is list)
            )
        )
    if count == 0:
        raise SettingsError(f"{name}: there are none; at least one is needed")
    if like is None:
        classes = count_classes(model, variables, Example.of(images), name)
    else:
        _check_alike(images, labels, like, name)
        classes = like.classes
    if is_soft:
        _check_probabilities(labels, classes)
    elif labels.min() < 0 or labels.max() >= classes:
        raise SettingsError(
            f"{name}: labels go from {labels.min()} to {labels.max()}; apply gives {classes} classes, from 0"
        )
    return images, labels


def column(labels: np.ndarray) -> np.ndarray:
    """Labels [n, 1] as [n]; others as they are."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def advice(labels: np.ndarray) -> str:
    """How to make whole numbers of labels that are none."""
    if labels.ndim == 2:
        return "; of one-hot rows take labels.argmax(axis=1)"
    if labels.dtype.kind in "OSU":
        return "; of names take numpy.unique(labels, return_inverse=True)[1]"
    whole = labels.dtype.kind == "f" and labels.size > 0 and bool((labels == np.floor(labels)).all())
    return "; these are whole: labels.astype(int)" if whole else ""


def looks_like_probabilities(logits: np.ndarray) -> bool:
    """Whether every row of classes, the last axis, is at least 0 and sums to 1."""
    return bool(logits.shape[-1] > 1 and logits.min() >= 0 and np.allclose(logits.sum(axis=-1), 1, atol=1e-3))


def device_labels(labels: np.ndarray) -> jax.Array:
    """Whole numbers, or probabilities, which keep every bit that float32 has."""
    return jnp.asarray(labels, jnp.int32 if labels.ndim == 1 else jnp.float32)


def _check_alike(images: Any, labels: np.ndarray, like: Like, name: str) -> None:
    """Raise SettingsError for images or labels of other shapes or dtypes than those that came first."""
    example = Example.of(images)
    if example != like.example:
        came, wanted = ([f"{x.dtype}{list(x.shape)}" for x in e.leaves] for e in (example, like.example))
        raise SettingsError(
            f"{name}: every image must be as those of the first batch, {', '.join(wanted)}; {', '.join(came)} came"
        )
    if labels.ndim != like.label_axes:
        raise SettingsError(f"{name}: labels have {labels.ndim} axes, those of the first batch {like.label_axes}")


def _check_arrays(leaves: list[tuple[str, Any]], name: str) -> None:
    """Raise SettingsError for arrays without a leading axis in common, and for NaN and Inf."""
    if len({x.shape[:1] for _, x in leaves}) > 1 or any(x.ndim == 0 for _, x in leaves):
        shapes = ", ".join(f"{own or 'array'} {list(x.shape)}" for own, x in leaves)
        raise SettingsError(
            f"{name}: all arrays must have as many rows as there are images, in one leading axis; they are {shapes}"
        )
    for own, x in leaves:
        if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
            raise SettingsError(f"the {name}{own} must be numbers; they are {x.dtype}")
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise SettingsError(f"the {name}{own} must be real numbers; they are {x.dtype}")
        if jnp.issubdtype(x.dtype, jnp.floating) and not np.isfinite(np.asarray(x)).all():
            raise SettingsError(f"the {name}{own} hold NaN or Inf")


def count_classes(model: Model, variables: Any, example: Example, name: str) -> int:
    """How many classes the network tells apart. Raises SettingsError where it does not take such images."""
    try:
        logits = jax.eval_shape(model.apply, variables, example.batch(2))
    except REFUSED as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        mode = ": in inference mode, such as partial(net.apply, train=False)" * isinstance(
            error, ModifyScopeVariableError
        )
        raise SettingsError(
            f"apply(variables, images{mode}) does not take {name} of shape {example}: {lines[0]}"
        ) from None
    if getattr(logits, "ndim", 0) != 2 or logits.shape[0] != 2:
        raise SettingsError(f"apply(variables, images) must give logits [n, classes]; for n = 2 it gives {logits}")
    return logits.shape[1]


def _check_probabilities(labels: np.ndarray, classes: int) -> None:
    """Raise SettingsError for rows that are no distributions over the classes."""
    if labels.shape[1] != classes:
        raise SettingsError(f"labels have {labels.shape[1]} probabilities an image; apply gives {classes} classes")
    wrong = ~((labels >= 0).all(axis=1) & (abs(labels.sum(axis=1) - 1) < 1e-3))  # NaN is no distribution either
    if wrong.any():
        row = int(np.argmax(wrong))
        raise SettingsError(
            f"labels that are probabilities must be at least 0 and sum to 1; those of image {row} sum to "
            f"{labels[row].sum():g}, the least is {labels[row].min():g}"
        )


def check_loss(model: Model, variables: Any, images: Any, labels: np.ndarray) -> None:
    """Raise SettingsError for a loss of one's own that does not give one number an image."""
    if model.loss is None:
        return
    logits = jax.eval_shape(model.apply, variables, Example.of(images).batch(2))
    two = jax.ShapeDtypeStruct((2, *labels.shape[1:]), jnp.int32 if labels.ndim == 1 else jnp.float32)
    try:
        found = jax.eval_shape(model.loss, jax.ShapeDtypeStruct(logits.shape, jnp.float32), two)
    except REFUSED as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SettingsError(f"loss(logits, labels) does not take logits [n, classes] and labels: {lines[0]}") from None
    if getattr(found, "shape", None) != (2,):
        raise SettingsError(
            "loss(logits, labels) must give one number an image, [n], with no mean over images; for n = 2 it gives "
            f"{jax.tree.map(lambda x: list(x.shape), found)}"
        )


def takes_index(augment: Callable[..., Any]) -> bool:
    """Whether an augmentation needs a third argument, which view of the images it is to give. One with a default is a
    setting of its own."""
    try:
        parameters = inspect.signature(augment).parameters.values()
    except (TypeError, ValueError):  # no function, or one without a signature
        return False
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in places and one.default is one.empty for one in parameters) == 3


def check_augment(augment: Callable[..., Any], images: Any) -> None:
    """Raise SettingsError for an augmentation that does not give images like those that it gets."""
    for n in (2, 5):
        some = Example.of(images).batch(n)
        keys = jax.eval_shape(lambda n=n: jax.random.split(jax.random.key(0), n))
        try:
            index = [jax.ShapeDtypeStruct((), jnp.int32)] if takes_index(augment) else []
            found = jax.eval_shape(augment, keys, some, *index)
        except REFUSED as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise SettingsError(f"augment(keys [n], images [n, ...]) does not take the images: {lines[0]}") from None
        same = jax.eval_shape(lambda x: x, some)
        if jax.tree.structure(found) != jax.tree.structure(same) or jax.tree.leaves(found) != jax.tree.leaves(same):
            raise SettingsError(f"augment(keys, images) must give images as it gets them, {same}; it gives {found}")


def check_network(model: Model, variables: Any, chosen: Subset, images: Any) -> None:
    """Raise SettingsError for a network whose ensemble would be wrong without a sign of it: one that never reads the
    subset, and what `check_outputs` tells. Warn of leaves of the subset that are never read."""

    def of_leaves(leaves: dict[str, Any], x: Any) -> Any:
        return model.apply(insert_leaves(chosen, variables, leaves), x)

    leaves = {p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in zip(chosen.paths, chosen.shapes, strict=True)}
    pair = Example.of(images).batch(2)
    idle = [name.removeprefix("['").removesuffix("']") for name in unread(of_leaves, leaves, pair)]
    if len(idle) == len(chosen.paths):
        raise SettingsError(
            f"apply never reads the subset ({_some(idle)}), so that every member would equal the base: name leaves "
            "that its output depends on, and look whether apply uses the variables that it is given"
        )
    if idle:
        warnings.warn(f"apply never reads these leaves of the subset: {_some(idle)}", stacklevel=4)
    check_outputs(model, variables, images)


def check_outputs(model: Model, variables: Any, images: Any) -> None:
    """Raise SettingsError for a network whose output is NaN or Inf, that gives probabilities instead of logits, or
    whose output for one image depends on the others."""
    images = jax.tree.map(jnp.asarray, images)
    logits = np.asarray(model.apply(variables, images), np.float64)
    check_logits(logits, variables)
    if looks_like_probabilities(logits):
        raise SettingsError(
            "apply returns probabilities (every row is at least 0 and sums to 1), and logits are needed: leave the "
            "softmax out, or return log(probabilities)"
        )
    if len(logits) > 1 and not all(bool((x == x[:1]).all()) for x in jax.tree.leaves(images)):
        reason = batch_dependence(model.apply, variables, rows(images, slice(8)))
        if reason:
            raise SettingsError(f"apply must treat each image by itself: {reason}")


def check_logits(logits: np.ndarray, variables: Any, who: str = "the network") -> None:
    """Raise SettingsError for logits [n, classes] that hold NaN or Inf, and name the parameter that may be the reason;
    -inf is a class that is ruled out."""
    wrong = int((~np.isfinite(logits.max(axis=1))).sum())
    if not wrong:
        return
    leaves = {name: np.asarray(x, np.float32) for name, x in named_leaves(variables) if _is_float(x) and np.size(x)}
    bad = [name for name, x in leaves.items() if not np.isfinite(x).all()]
    if bad:
        why = f"{_some(bad)} of its variables hold NaN or Inf"
    else:
        name = max(leaves, key=lambda name: float(abs(leaves[name]).max()), default="")
        why = "its variables are finite" + (
            f"; the largest is {abs(leaves[name]).max():.3g}, in {name}" if name else ""
        )
    raise SettingsError(f"{who} gives NaN or Inf on {wrong} of {len(logits)} images: {why}")


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.asarray(x).dtype), jnp.floating)


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
