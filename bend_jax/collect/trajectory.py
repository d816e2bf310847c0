"""BEND's collector (section 3.1): fine-tune the subset, save it after every epoch."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Key

from bend_jax.checks import one_of
from bend_jax.collect.fine_tuning import chain
from bend_jax.collect.frozen_features import Checkpoints, FineTuning
from bend_jax.subset import Subset
from bend_jax.training import SILENT, Examples, Model, Watch, sgd

STATISTICS = ("frozen", "drift")


@dataclass(frozen=True, kw_only=True)
class Trajectory(FineTuning):
    """BEND's collector: fine-tune the subset for k epochs, save after each."""

    lr: float = 1.6e-4  # the base's rate after its last step, 0.1 * 0.2**4
    statistics: str = "frozen"  # of BN; "drift": the literal variant, in which all of them follow the minibatches

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "statistics", STATISTICS)


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
