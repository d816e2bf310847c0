"""Collectors: k checkpoints of a subset. One file an algorithm; `COLLECT` is the table of them.

collect(model, variables, subset, data, key, settings, *, watch) -> Checkpoints(vectors [k, dim], weights [k] | None)
"""

from collections.abc import Callable
from typing import Any

from bend_jax.batch_norm import holds_statistics
from bend_jax.checks import SettingsError
from bend_jax.collect import boosting, bootstrap, cyclical, independent, mc_bn, trajectory
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.frozen_features import Checkpoints
from bend_jax.collect.independent import Independent
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.subset import Subset, select
from bend_jax.training import Model

Collector = Trajectory | Bootstrap | Cyclical | Boosting | Independent | McBn
COLLECTORS: dict[str, Any] = {
    "trajectory": Trajectory,
    "bootstrap": Bootstrap,
    "cyclical": Cyclical,
    "boosting": Boosting,
    "independent": Independent,
    "mc_bn": McBn,
}


COLLECT: dict[str, Callable[..., Checkpoints]] = {
    "trajectory": trajectory.collect,
    "bootstrap": bootstrap.collect,
    "cyclical": cyclical.collect,
    "boosting": boosting.collect,
    "independent": independent.collect,
    "mc_bn": mc_bn.collect,
}


def demand(model: Model, variables: Any, subset: Subset, settings: Any, memory: int, members: int = 0) -> None:
    """Raise SettingsError, before any compute, for what a collector cannot do: a subset that it is not for, a model
    without what it needs, or vectors that do not fit into `memory` bytes.

    variables: arrays, or what `jax.eval_shape` gives; members: vectors that there will be beside the k checkpoints.
    """
    whole, starts = isinstance(settings, Independent), getattr(settings, "reinitialise", False)
    moves = holds_statistics(subset)
    if whole and subset != select(variables, ["*"]):
        raise SettingsError("the independent collector trains whole networks: give it the subset '*'")
    if isinstance(settings, McBn) and not moves:
        raise SettingsError("mc_bn varies BN statistics, and the subset holds none: give it the subset 'batch_stats'")
    drifts = isinstance(settings, Trajectory) and settings.statistics == "drift"
    if model.train_apply is None and (moves or drifts or whole):
        raise SettingsError(
            "BN statistics that move, and networks trained from scratch, need a model with train_apply(variables, "
            "images, key) -> (logits, variables); none was given: give one, or leave the statistics out of the subset"
        )
    if model.init is None and (whole or starts):
        raise SettingsError("training from fresh values needs a model with init(key) -> variables; none was given")
    needed = 4 * subset.dim * (2 * settings.k + members)
    if needed > memory:
        raise SettingsError(
            f"the subset has {subset.dim:,} numbers: k={settings.k} checkpoints, while saved and evaluated, and "
            f"{members} vectors of members beside them take {needed:,} bytes, and {memory:,} are allowed: choose a "
            "smaller subset, k or number of members, or allow more (compute.memory_mb; to fit: watch=Watch(memory=...))"
        )
