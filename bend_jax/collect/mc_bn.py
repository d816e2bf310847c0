"""MC-BN (Teye et al. 2018): the base with the BN statistics of random training minibatches. Nothing is trained."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bend_jax.batch_norm import recompute
from bend_jax.checks import at_least
from bend_jax.collect.frozen_features import Checkpoints
from bend_jax.subset import Subset, flatten
from bend_jax.training import SILENT, Examples, Model, Watch


@dataclass(frozen=True)
class McBn:
    """MC-BN (Teye et al. 2018): the base with BN statistics of k random training batches; trains nothing."""

    k: int = 200
    batch: int = 64

    def __post_init__(self) -> None:
        at_least(self, 2, "k", "batch")


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: McBn,
    *,
    watch: Watch = SILENT,
) -> Checkpoints:
    """k vectors [k, dim] that differ in their BN statistics alone, each from one augmented minibatch.

    Raises SettingsError for a subset without statistics, and for a model without train_apply (see `demand`).
    """
    from bend_jax.collect import demand

    demand(model, variables, subset, settings, watch.memory)
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
