"""BEND's collector (section 3.1): fine-tune the subset, save it after every epoch."""

from typing import Any

from jaxtyping import Array, Key

from bend_jax.checks import setting
from bend_jax.collect import fine_tuning
from bend_jax.collect.collector import Checkpoints, Collector, Cost, Problem, Work, check_train_apply
from bend_jax.collect.fine_tuning import MIXUP, Schedule, fine_tune
from bend_jax.collect.frozen_features import FineTuning, fine_tuning_cost
from bend_jax.recipe import sgd
from bend_jax.subset import Subset
from bend_jax.training import SILENT, Callbacks, Examples, Model

STATISTICS = ("frozen", "drift")


class Trajectory(FineTuning):
    """BEND's collector: fine-tune the subset for k epochs, save after each."""

    lr: float = setting("the base's rate after its last decay, 0.1 * 0.2**4", default=1.6e-4, above=0)
    statistics: str = setting(
        'of BN; "drift": all of them move meanwhile, as in the published code',
        default="frozen",
        choices=STATISTICS,
    )
    mixup: float = setting(MIXUP, default=0.0, least=0, added=True)


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Trajectory,
    *,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """k vectors [k, dim]: everything but the subset is frozen, and BN runs in inference mode with the base's
    statistics, so that a member is exactly a function of its vector.

    With statistics="drift", the literal variant, BN runs in training mode and all running statistics move meanwhile;
    members are evaluated with the base's, as the published code does, but for those that the subset holds.
    """
    optimizer = sgd(settings.lr, settings.momentum, settings.weight_decay)
    drift = settings.statistics == "drift"
    schedule = Schedule("trajectory", optimizer, settings.k, lambda epoch: epoch - 1, drift, settings.mixup)
    state = fine_tune(schedule, model, variables, subset, data, key, settings, callbacks)
    return Checkpoints(state.extra["saved"])


def needs(settings: Trajectory, problem: Problem) -> None:
    """Raise SettingsError for what it cannot do."""
    if settings.statistics == "drift":
        check_train_apply(problem)
    fine_tuning.needs(settings, problem)


def cost(settings: Trajectory, work: Work) -> Cost:
    """k epochs of the subset."""
    return fine_tuning_cost(settings, work, settings.k, settings.k, drift=settings.statistics == "drift")


COLLECTOR = Collector("trajectory", Trajectory(), collect, needs, cost)
