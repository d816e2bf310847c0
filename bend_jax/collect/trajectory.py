"""BEND's collector (section 3.1): fine-tune the subset, save it after every epoch."""

from typing import Any

from jaxtyping import Array, Key

from bend_jax.collect.chain import chain
from bend_jax.collect.features import Checkpoints
from bend_jax.settings import Trajectory
from bend_jax.subset import Subset
from bend_jax.training import SILENT, Examples, Model, Watch, sgd


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Trajectory,
    *,
    watch: Watch = SILENT,
) -> Checkpoints:
    """k vectors [k, dim]: everything but the subset is frozen, and BN runs in inference mode with the base's
    statistics, so that a member is exactly a function of its vector.

    With statistics="drift", the literal variant, BN runs in training mode and all running statistics move meanwhile;
    members are evaluated with the base's, as the published code does, but for those that the subset holds.
    """
    tx = sgd(settings.lr, settings.momentum, settings.weight_decay)
    state = chain(
        "trajectory",
        model,
        variables,
        subset,
        data,
        key,
        settings,
        watch,
        tx=tx,
        epochs=settings.k,
        slot=lambda epoch: epoch - 1,
        drift=settings.statistics == "drift",
    )
    return Checkpoints(state.extra["saved"])
