"""MC-BN (Teye et al. 2018): the base with the BN statistics of random training minibatches. Nothing is trained."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bend_jax.batch_norm import holds_statistics, recompute
from bend_jax.checks import Settings, SettingsError, setting
from bend_jax.collect.collector import Checkpoints, Collector, Cost, Problem, Work, check_batch, check_train_apply
from bend_jax.subset import Subset, flatten
from bend_jax.training import SILENT, Callbacks, Examples, Model


class McBn(Settings):
    """MC-BN (Teye et al. 2018): the base with BN statistics of k random training batches; trains nothing."""

    k: int = setting("batches, each of which gives one checkpoint", default=200, least=1, shared="collect")
    batch: int = setting("images a batch", default=64, least=2, shared="collect")


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: McBn,
    *,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """k vectors [k, dim] that differ in their BN statistics alone, each from one augmented minibatch."""
    base = flatten(subset, variables)[None]
    batch = settings.batch
    return Checkpoints(
        jnp.concatenate(
            [
                recompute(model, variables, subset, base, data, jax.random.fold_in(key, i), batch, batch)
                for i in range(settings.k)
            ]
        )
    )


def needs(settings: McBn, problem: Problem) -> None:
    """Raise SettingsError for a subset without statistics, and for a model without train_apply."""
    if not holds_statistics(problem.subset):
        raise SettingsError("mc_bn varies BN statistics, and the subset holds none: give it the subset 'batch_stats'")
    check_train_apply(problem)
    check_batch(settings.batch, problem.images)


def cost(settings: McBn, work: Work) -> Cost:
    """Two forward passes of each batch (`batch_norm.batch_statistics`)."""
    return Cost(settings.k * 2 * settings.batch * work.operations.forward)


COLLECTOR = Collector("mc_bn", McBn(), collect, needs, cost)
