"""MC-BN (Teye et al. 2018): the base with the BN statistics of random training minibatches. Nothing is trained."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bend_jax.collect.features import Checkpoints, demand
from bend_jax.settings import McBn
from bend_jax.statistics import recompute
from bend_jax.subset import Subset, flatten
from bend_jax.training import SILENT, Examples, Model, Watch


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
