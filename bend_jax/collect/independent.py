"""A deep ensemble (Lakshminarayanan et al. 2017): the base and further trainings by its recipe, each from scratch."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bend_jax.checks import Settings, SettingsError, setting
from bend_jax.collect.collector import (
    Checkpoints,
    Collector,
    Cost,
    Problem,
    Work,
    check_batch,
    check_init,
    check_train_apply,
)
from bend_jax.recipe import Base
from bend_jax.subset import Subset, flatten, select
from bend_jax.training import SILENT, Callbacks, Examples, Model, train_base


class Independent(Settings):
    """A deep ensemble (Lakshminarayanan et al. 2017): the base and k - 1 more trainings by its recipe."""

    k: int = setting("the base and k - 1 more networks", default=200, least=1, shared="collect")
    base: Base = setting("the recipe of every network", default=Base, shared="base")


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Independent,
    *,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """The base's vector and those of k - 1 trainings with other seeds [k, dim]."""
    vectors = [flatten(subset, variables)]
    for i in range(1, settings.k):
        name = f"independent {i} of {settings.k - 1}"
        trained = train_base(model, data, jax.random.fold_in(key, i), settings.base, name=name, callbacks=callbacks)
        vectors.append(flatten(subset, trained))
    return Checkpoints(jnp.stack(vectors))


def needs(settings: Independent, problem: Problem) -> None:
    """Raise SettingsError for a subset that leaves something out, and for a model without init or train_apply."""
    if problem.unseen:
        raise SettingsError(
            "the independent collector trains whole networks, which share no base: data.unseen must be 0"
        )
    if problem.subset != select(problem.variables, ["*"]):
        raise SettingsError("the independent collector trains whole networks: give it the subset '*'")
    check_train_apply(problem)
    check_init(problem.model)
    check_batch(settings.base.batch, problem.images)


def cost(settings: Independent, work: Work) -> Cost:
    """k - 1 trainings like the base's."""
    return Cost((settings.k - 1) * settings.base.epochs * work.images * work.operations.step)


COLLECTOR = Collector("independent", Independent(), collect, needs, cost)
