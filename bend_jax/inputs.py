"""What a user gives to `fit`, checked before any training: every mistake is one line that says what to do."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices
from bend_jax.batch_norm import holds_statistics
from bend_jax.batches import Batches, look
from bend_jax.batching import rows
from bend_jax.checks import SettingsError
from bend_jax.collect import COLLECTORS
from bend_jax.collect.collector import Checkpoints, Collector, Problem, check_requirements
from bend_jax.data import splits
from bend_jax.example import Example
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import Generator
from bend_jax.labelled import TRIED, check_augment, check_images, check_loss, check_network, device_labels, takes_index
from bend_jax.subset import RANK, Subset, select
from bend_jax.training import Callbacks, Examples, Model


class Inputs(NamedTuple):
    """What `fit` works on. examples: None where batches are still to be read; collector: None where the checkpoints are
    there, and checkpoints None where they are still to be collected; validation: None for none."""

    model: Model
    variables: Any
    subset: Subset
    examples: Examples | None
    batches: Batches | None
    view: Callable[..., Any]
    collector: Collector | None
    checkpoints: Checkpoints | None
    generator: Generator
    validation: tuple[Any, Any] | None
    image: Example


def check(
    model: Model,
    variables: Any,
    data: tuple[Any, ...],
    *,
    subset: str | Sequence[str],
    rank: int,
    collect: Any,
    generate: Any,
    members: Any,
    validation: Any,
    held_out_seed: int | None,
    augment: Callable[..., Any] | None,
    callbacks: Callbacks,
) -> Inputs:
    """Everything that `fit` is given, checked and put in order.

    held_out_seed: of the stratified tenth of the images that is held out for validation, None for none. Raises
    SettingsError.
    """
    chosen = choose_subset(variables, subset, rank)
    if rank != RANK and not any(path.endswith(".lora_a") for path in chosen.paths):
        raise SettingsError(f"rank={rank} is of adapters, and the subset has none: put lora: in front of a pattern")
    batches = _find_batches(data, held_out_seed is not None and validation is None)
    given = data if batches is None else batches.first
    images, labels = check_images(model, variables, given, "images", soft=held_out_seed is None)
    if validation is not None:
        validation = check_images(model, variables, validation, "validation images")
        if batches is None and _are_same(images, validation[0]):
            raise SettingsError(
                "the validation images are the training images: on these every vote looks surer than it may be; give "
                "others, or unseen=True where the network was trained on none of the images"
            )
    elif held_out_seed is not None:
        held = splits.held_out(np.random.default_rng(held_out_seed), labels, max(1, round(len(labels) / 10)))
        (images, labels), validation = (rows(images, ~held), labels[~held]), (rows(images, held), labels[held])
    check_network(model, variables, chosen, rows(images, slice(TRIED)))
    check_loss(model, variables, images, labels)
    if augment is not None:
        check_augment(augment, images)
    generator = find_generator(generate)
    if isinstance(members, bool) or not isinstance(members, int) or members < 1:
        raise SettingsError(f"members must be a whole number of at least 1; got {members!r}")
    ready = collect if isinstance(collect, Checkpoints) else None
    collector = None
    if ready is not None:
        check_checkpoints(ready, chosen, generator)
        check_weights(generator, members, len(ready.vectors), ready.weights is not None)
    else:
        collector = find_collector(collect) if augment is not None else without_views(find_collector(collect))
        count = sys.maxsize if batches is not None else len(labels)
        problem = Problem(model, variables, chosen, count, devices.count(callbacks.mesh))
        _check_collector(collector, problem, generator, members, callbacks)
        if batches is not None:
            _check_reads_features(collector, problem, augment)
    if batches is not None and holds_statistics(chosen):
        raise SettingsError("BN statistics in the subset need the whole network on images: give arrays, not batches")
    image = Example.of(images)
    view = view_of(augment)
    examples = None
    if batches is None:
        examples = Examples(jax.tree.map(jnp.asarray, images), device_labels(labels), view, lambda x: x)
    return Inputs(model, variables, chosen, examples, batches, view, collector, ready, generator, validation, image)


def _are_same(images: Any, others: Any) -> bool:
    """Whether two trees hold the same arrays."""
    mine, other_leaves = jax.tree.leaves(images), jax.tree.leaves(others)
    return len(mine) == len(other_leaves) and all(np.array_equal(x, y) for x, y in zip(mine, other_leaves, strict=True))


def view_of(augment: Callable[..., Any] | None) -> Callable[..., Any]:
    """(keys, images, index) -> images of an augmentation, which may leave the index out, or of none."""
    if augment is None:
        return lambda keys, images, index: images
    return augment if takes_index(augment) else lambda keys, images, index: augment(keys, images)


def _find_batches(data: tuple[Any, ...], holds_out: bool) -> Batches | None:
    """The batches where one iterable was given, None where images and labels were. Raises SettingsError."""
    if len(data) == 2:
        return None
    if len(data) != 1:
        raise SettingsError(f"data are images and labels, or one iterable of batches of both; {len(data)} came")
    found = look(data[0])
    if holds_out:
        raise SettingsError("batches are read once, and none are kept: with them give validation=(images, labels)")
    return found


def _check_collector(
    collector: Collector, problem: Problem, generator: Generator, members: int, callbacks: Callbacks
) -> None:
    """Raise SettingsError for what the collector cannot do, and for a generator that does not fit its checkpoints."""
    settings = collector.settings
    if problem.model.loss is not None and getattr(settings, "label_smoothing", 0):
        raise SettingsError(
            f"label_smoothing={settings.label_smoothing} is of the cross-entropy: with a loss of your own leave it 0"
        )
    generator.needs(generator.settings, settings.k)
    check_weights(generator, members, settings.k, collector.has_weights)
    check_requirements(collector, problem, callbacks.memory, generator.members(members, settings.k))


def _check_reads_features(collector: Collector, problem: Problem, augment: Any) -> None:
    """Raise SettingsError for a collector that needs more than the features of batches that are read once."""
    try:
        collector.needs(collector.settings, problem._replace(model=problem.model._replace(train_apply=None)))
    except SettingsError:
        raise SettingsError(
            f"{collector.name} runs the whole network in training mode, and batches are read once, for the features of "
            "the frozen part: give it arrays"
        ) from None
    if collector.has_weights and augment is not None:
        raise SettingsError(f"{collector.name} labels images that are not augmented: with batches leave augment out")


def choose_subset(variables: Any, patterns: str | Sequence[str], rank: int = RANK) -> Subset:
    """The subset that the patterns name; rank: of adapters. Raises SettingsError."""
    words = [w.strip() for w in patterns.split(",")] if isinstance(patterns, str) else list(patterns)
    try:
        return select(variables, words, rank)
    except ValueError as error:
        raise SettingsError(f"subset: {error}") from None


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
