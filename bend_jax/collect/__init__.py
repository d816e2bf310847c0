"""Collectors: k checkpoints of a subset. One file an algorithm; `COLLECTORS` is the table of their records."""

from bend_jax.collect import boosting, bootstrap, cyclical, independent, mc_bn, trajectory
from bend_jax.collect.collector import Collector

COLLECTORS: dict[str, Collector] = {
    module.COLLECTOR.name: module.COLLECTOR
    for module in (trajectory, bootstrap, cyclical, boosting, independent, mc_bn)
}
