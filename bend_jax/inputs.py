"""What a user gives to `fit`, checked before any training: every mistake is one line that says what to do."""

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices
from bend_jax.batching import batch_dependence
from bend_jax.checks import SettingsError
from bend_jax.collect import COLLECTORS
from bend_jax.collect.collector import Checkpoints, Collector, Problem, check_requirements
from bend_jax.data import splits
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import Generator
from bend_jax.split import unread
from bend_jax.subset import RANK, Subset, insert_leaves, select
from bend_jax.training import Callbacks, Examples, Model

TRIED = 32  # images, at most, on which the network is tried before training


class Inputs(NamedTuple):
    """What `fit` works on. checkpoints: None where they are still to be collected; validation: None for none."""

    model: Model
    subset: Subset
    examples: Examples
    collector: Collector | None
    checkpoints: Checkpoints | None
    generator: Generator
    validation: tuple[Any, Any] | None
    image: jax.ShapeDtypeStruct


def check(
    model: Model,
    variables: Any,
    data: tuple[Any, Any],
    *,
    subset: str | Sequence[str],
    rank: int,
    collect: Any,
    generate: Any,
    members: Any,
    validation: Any,
    held_out_seed: int | None,
    callbacks: Callbacks,
) -> Inputs:
    """Everything that `fit` is given, checked and put in order.

    held_out_seed: of the stratified tenth of the images that is held out for validation, None for none. Raises
    SettingsError.
    """
    chosen = choose_subset(variables, subset, rank)
    images, labels = check_images(model, variables, data, "images", soft=held_out_seed is None)
    if validation is not None:
        validation = check_images(model, variables, validation, "validation images")
    elif held_out_seed is not None:
        held = splits.held_out(np.random.default_rng(held_out_seed), labels, max(1, round(len(labels) / 10)))
        (images, labels), validation = (images[~held], labels[~held]), (images[held], labels[held])
    check_network(model, variables, chosen, images[:TRIED])
    generator = find_generator(generate)
    if isinstance(members, bool) or not isinstance(members, int) or members < 1:
        raise SettingsError(f"members must be a whole number of at least 1; got {members!r}")
    collector = None
    if isinstance(collect, Checkpoints):
        check_checkpoints(collect, chosen, generator)
        check_weights(generator, members, len(collect.vectors), collect.weights is not None)
    else:
        collector = without_views(find_collector(collect))
        k = collector.settings.k
        generator.needs(generator.settings, k)
        check_weights(generator, members, k, collector.has_weights)
        problem = Problem(model, variables, chosen, len(labels), devices.count(callbacks.mesh))
        check_requirements(collector, problem, callbacks.memory, generator.members(members, k))
    examples = Examples(jnp.asarray(images), _device_labels(labels), lambda keys, x: x, lambda x: x)
    image = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    ready = collect if isinstance(collect, Checkpoints) else None
    return Inputs(model, chosen, examples, collector, ready, generator, validation, image)


def choose_subset(variables: Any, patterns: str | Sequence[str], rank: int = RANK) -> Subset:
    """The subset that the patterns name; rank: of adapters. Raises SettingsError."""
    words = [w.strip() for w in patterns.split(",")] if isinstance(patterns, str) else list(patterns)
    try:
        return select(variables, words, rank)
    except ValueError as error:
        raise SettingsError(f"subset: {error}") from None


def _device_labels(labels: np.ndarray) -> jax.Array:
    """Whole numbers, or probabilities, which keep every bit that float32 has."""
    return jnp.asarray(labels, jnp.int32 if labels.ndim == 1 else jnp.float32)


def check_images(
    model: Model, variables: Any, data: Any, name: str, *, soft: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) as arrays; soft: labels may be probabilities [n, classes]. Raises SettingsError for what the
    network cannot take, or labels that do not fit."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise SettingsError(f"{name} are given as (images, labels); got {type(data).__name__}")
    images, labels = (np.asarray(x) for x in data)
    is_soft = soft and labels.ndim == 2 and np.issubdtype(labels.dtype, np.floating)
    if images.ndim == 0 or not (is_soft or (labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer))):
        raise SettingsError(
            f"{name}: labels must be a row of whole numbers, one for each image"
            + (", or probabilities [n, classes]" if soft else "")
            + f"; {labels.dtype}{list(labels.shape)} came"
        )
    if len(images) != len(labels):
        raise SettingsError(
            f"{name}: there are {len(images)} images and {len(labels)} labels; one label for each image is needed"
            + (" (a single image needs a batch axis: images[None])" if len(labels) == 1 else "")
        )
    if len(labels) == 0:
        raise SettingsError(f"{name}: there are none; at least one is needed")
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        raise SettingsError(f"the {name} hold NaN or Inf")
    pair = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
    try:
        logits = jax.eval_shape(model.apply, variables, pair)
    except (TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"apply(variables, images) does not take {name} of shape [n, "
            f"{', '.join(map(str, images.shape[1:]))}]: {first}"
        ) from None
    if getattr(logits, "ndim", 0) != 2 or logits.shape[0] != 2:
        raise SettingsError(f"apply(variables, images) must give logits [n, classes]; for n = 2 it gives {logits}")
    if is_soft:
        _check_probabilities(labels, logits.shape[1])
    elif labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise SettingsError(
            f"{name}: labels go from {labels.min()} to {labels.max()}; apply gives {logits.shape[1]} classes, from 0"
        )
    return images, labels


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


def check_network(model: Model, variables: Any, chosen: Subset, images: np.ndarray) -> None:
    """Raise SettingsError for a network whose ensemble would be wrong without a sign of it: one that never reads the
    subset, and what `check_outputs` tells. Warn of leaves of the subset that are never read."""

    def of_leaves(leaves: dict[str, Any], x: Any) -> Any:
        return model.apply(insert_leaves(chosen, variables, leaves), x)

    leaves = {p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in zip(chosen.paths, chosen.shapes, strict=True)}
    pair = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
    idle = [name.removeprefix("['").removesuffix("']") for name in unread(of_leaves, leaves, pair)]
    if len(idle) == len(chosen.paths):
        raise SettingsError(
            f"apply never reads the subset ({_some(idle)}), so that every member would equal the base: name leaves "
            "that its output depends on, and look whether apply uses the variables that it is given"
        )
    if idle:
        warnings.warn(f"apply never reads these leaves of the subset: {_some(idle)}", stacklevel=4)
    check_outputs(model, variables, images)


def check_outputs(model: Model, variables: Any, images: np.ndarray) -> None:
    """Raise SettingsError for a network that gives probabilities instead of logits, or whose output for one image
    depends on the others."""
    logits = np.asarray(model.apply(variables, jnp.asarray(images)), np.float64)
    if logits.shape[1] > 1 and logits.min() >= 0 and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise SettingsError(
            "apply returns probabilities (every row is at least 0 and sums to 1), and logits are needed: leave the "
            "softmax out, or return log(probabilities)"
        )
    if len(images) > 1 and not (images == images[:1]).all():
        reason = batch_dependence(model.apply, variables, jnp.asarray(images[:8]))
        if reason:
            raise SettingsError(f"apply must treat each image by itself: {reason}")


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def check_checkpoints(checkpoints: Checkpoints, chosen: Subset, generator: Generator) -> None:
    """Raise SettingsError for ready-made checkpoints that do not fit the subset or the generator."""
    shape = np.shape(checkpoints.vectors)
    if len(shape) != 2 or shape[1] != chosen.dim:
        raise SettingsError(f"the checkpoints are {list(shape)}; the subset needs vectors of {chosen.dim} numbers")
    generator.needs(generator.settings, shape[0])


def check_weights(generator: Generator, members: int, k: int, has_weights: bool) -> None:
    """Raise SettingsError for fewer members than weights, where the members are the k weighted checkpoints."""
    if has_weights and generator.is_all_checkpoints and members < k:
        raise SettingsError(f"members={members} do not match the {k} weights of the checkpoints: give members={k}")


def find_collector(given: Any) -> Collector:
    """The record of a collector, with these settings. Raises SettingsError for anything else."""
    return _find(given, COLLECTORS, Collector, "collect")


def find_generator(given: Any) -> Generator:
    """The record of a generator, with these settings. Raises SettingsError for anything else."""
    return _find(given, GENERATORS, Generator, "generate")


def _find(given: Any, table: dict[str, Any], kind: type, name: str) -> Any:
    if isinstance(given, kind):
        return given
    for record in table.values():
        if type(given) is type(record.settings):
            return replace(record, settings=given)
        if given is type(record.settings):
            raise SettingsError(f"{name}={given.__name__} is a class: give an instance, {given.__name__}()")
    kinds = ", ".join(type(record.settings).__name__ for record in table.values())
    raise SettingsError(f"{name} takes settings of one of {kinds}, or a {kind.__name__} of your own; got {given!r}")


def without_views(collector: Collector) -> Collector:
    """The collector with one view of each image: `fit` augments nothing, so that there is no other."""
    if any(field.name == "views" for field in fields(collector.settings)):
        return replace(collector, settings=replace(collector.settings, views=1))
    return collector
