"""A deep ensemble (Lakshminarayanan et al. 2017): the base and further trainings by its recipe, each from scratch."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bend_jax.checks import at_least
from bend_jax.collect.frozen_features import Checkpoints
from bend_jax.subset import Subset, flatten
from bend_jax.training import SILENT, Base, Examples, Model, Watch, train_base


@dataclass(frozen=True)
class Independent:
    """A deep ensemble (Lakshminarayanan et al. 2017): the base and k - 1 more trainings by its recipe."""

    k: int = 200
    base: Base = field(default_factory=Base)

    def __post_init__(self) -> None:
        at_least(self, 2, "k")


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Independent,
    *,
    watch: Watch = SILENT,
) -> Checkpoints:
    """The base's vector and those of k - 1 trainings with other seeds [k, dim].

    Raises SettingsError for a subset that leaves something out, and for a model without init or train_apply (see
    `demand`).
    """
    from bend_jax.collect import demand

    demand(model, variables, subset, settings, watch.memory)
    vectors = [flatten(subset, variables)]
    for i in range(1, settings.k):
        name = f"independent {i} of {settings.k - 1}"
        trained = train_base(model, data, jax.random.fold_in(key, i), settings.base, name=name, watch=watch)
        vectors.append(flatten(subset, trained))
    return Checkpoints(jnp.stack(vectors))
