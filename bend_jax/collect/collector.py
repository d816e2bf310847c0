"""What a collector is: one record of its settings, what it needs, what it does and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from bend_jax.batch_norm import holds_statistics
from bend_jax.checks import SettingsError
from bend_jax.operations import Operations
from bend_jax.subset import Subset, has_collections
from bend_jax.training import Model


class Checkpoints(NamedTuple):
    """What a collector returns: vectors [k, dim], and their weights [k] where it has any."""

    vectors: Float[Array, "k dim"]
    weights: Float[Array, " k"] | None = None


class Problem(NamedTuple):
    """What a collector is asked to work on. variables: arrays, or what `jax.eval_shape` gives."""

    model: Model
    variables: Any
    subset: Subset
    images: int  # that it trains on
    devices: int = 1  # that share a minibatch
    unseen: bool = False  # whether the base was trained on other images


class Work(NamedTuple):
    """What a collector's cost is counted from."""

    operations: Operations
    images: int  # that it trains on
    memory: int  # bytes that cached features may take
    moves_statistics: bool  # whether the subset holds BN statistics


class Cost(NamedTuple):
    """Floating-point operations of all trainings, bytes of cached features, and bytes of intermediates of all
    checkpoints that could be trained at once."""

    operations: float
    cached_bytes: int = 0
    trained_bytes: int = 0


@dataclass(frozen=True)
class Collector:
    """A collector, as `fit` and a run take it.

    - name: of its group of settings.
    - settings: an instance of a Settings class with its default values; its field k is the number of checkpoints.
    - collect(model, variables, subset, examples, key, settings, *, callbacks) -> Checkpoints.
    - needs(settings, problem): raises SettingsError for what it cannot do.
    - cost(settings, work) -> Cost.
    - has_weights: whether its checkpoints come with weights in the vote.
    """

    name: str
    settings: Any
    collect: Callable[..., Checkpoints]
    needs: Callable[[Any, Problem], None] = lambda settings, problem: None
    cost: Callable[[Any, Work], Cost] = lambda settings, work: Cost(0.0)
    has_weights: bool = False


def sameness(vectors: Any) -> str:
    """What is to be known of k checkpoints that are all the same; "" for others, and for one."""
    x = np.asarray(vectors)
    if len(x) < 2 or (x != x[:1]).any():
        return ""
    return f"all {len(x)} checkpoints are the same: there is no distribution to learn, and every member is a copy"


def check_requirements(collector: Collector, problem: Problem, memory: int, members: int = 0) -> None:
    """Raise SettingsError, before any compute, for what a collector cannot do, and for vectors that do not fit into
    `memory` bytes. members: vectors that there will be beside the k checkpoints."""
    subset, settings = problem.subset, collector.settings
    if holds_statistics(subset):
        check_train_apply(problem)
    collector.needs(settings, problem)
    needed = 4 * subset.dim * (2 * settings.k + members)
    if needed > memory:
        raise SettingsError(
            f"the subset has {subset.dim:,} numbers: k={settings.k} checkpoints, while saved and evaluated, and "
            f"{members} vectors of members beside them take {needed:,} bytes, and {memory:,} are allowed: choose a "
            "smaller subset, k or number of members, or allow more (compute.memory_mb; to fit: "
            "callbacks=Callbacks(memory=...))"
        )


def check_train_apply(problem: Problem) -> None:
    """Raise SettingsError for a model that cannot run in training mode, and for variables whose statistics cannot be
    told from their parameters."""
    if not has_collections(problem.variables):
        raise SettingsError(
            "BN statistics that move, and networks trained from scratch, need variables whose top level names the "
            "parameters: {'params': ..., 'batch_stats': ...}; these have no 'params', so that all of them are "
            "parameters"
        )
    if problem.model.train_apply is None:
        raise SettingsError(
            "BN statistics that move, and networks trained from scratch, need a model with train_apply(variables, "
            "images, key) -> (logits, variables); none was given: give one, or leave the statistics out of the subset"
        )


def check_init(model: Model) -> None:
    """Raise SettingsError for a model that cannot be started anew."""
    if model.init is None:
        raise SettingsError("training from fresh values needs a model with init(key) -> variables; none was given")


def check_batch(batch: int, images: int) -> None:
    """Raise SettingsError for a minibatch that is larger than the training set."""
    if batch > images:
        raise SettingsError(f"batch={batch} is more than the {images} training images")
