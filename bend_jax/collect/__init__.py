"""Collectors: k checkpoints of a subset. One file an algorithm; `COLLECT` is the table of them.

collect(model, variables, subset, data, key, settings, *, watch) -> Checkpoints(vectors [k, dim], weights [k] | None)
"""

from collections.abc import Callable

from bend_jax.collect import boosting, bootstrap, cyclical, independent, mc_bn, trajectory
from bend_jax.collect.features import Checkpoints

COLLECT: dict[str, Callable[..., Checkpoints]] = {
    "trajectory": trajectory.collect,
    "bootstrap": bootstrap.collect,
    "cyclical": cyclical.collect,
    "boosting": boosting.collect,
    "independent": independent.collect,
    "mc_bn": mc_bn.collect,
}
