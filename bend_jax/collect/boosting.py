"""CBNN (checkpoint boosted neural networks): multi-class AdaBoost over the checkpoints of one training."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from bend_jax import devices
from bend_jax.batching import rows
from bend_jax.checks import SettingsError, setting
from bend_jax.collect import fine_tuning
from bend_jax.collect.collector import Checkpoints, Collector, Cost, Work
from bend_jax.collect.fine_tuning import Reweighting, Schedule, fine_tune
from bend_jax.collect.frozen_features import FineTuning, fine_tuning_cost
from bend_jax.recipe import sgd
from bend_jax.subset import Subset, flatten, insert
from bend_jax.training import SILENT, Callbacks, Examples, Model, State


class Boosting(FineTuning):
    """CBNN: warm-started multi-class AdaBoost over checkpoints. The base is the first of the k checkpoints."""

    epochs: int = setting("between two checkpoints", default=2, least=1)
    eta: float = setting(
        "damping of the weights' update: 1 is SAMME, which leaves a few images all the weight [ours]",
        default=0.1,
        above=0,
        most=1,
    )
    lr: float = setting("learning rate between two checkpoints", default=0.01, above=0)


CHUNK = 250  # images a program while a checkpoint labels the training set
LEAST = 1e-6  # the error is kept so far from 0 and from that of guessing


def reweigh(
    weights: Float[Array, " n"], wrong: Bool[Array, " n"], classes: int, eta: float
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """(new weights, lambda) of a classifier that is `wrong` on these images: damped SAMME (Hastie et al. 2009).

    e = sum of the weights of the wrong ones, clipped to [LEAST, 1 - 1/K - LEAST]; lambda = log((1 - e) / e) +
    log(K - 1); w <- w exp(-(beta/K) <Y, G>) normalised, with beta = eta ((K - 1)^2 / K) lambda, <Y, G> = K / (K - 1)
    where right and -K / (K - 1)^2 where wrong.
    """
    k = classes
    error = jnp.clip(jnp.sum(weights * wrong), LEAST, 1 - 1 / k - LEAST)
    lam = jnp.log((1 - error) / error) + jnp.log(k - 1.0)
    beta = eta * ((k - 1) ** 2 / k) * lam
    agreement = jnp.where(wrong, -k / (k - 1) ** 2, k / (k - 1))
    raised = jnp.log(weights) - beta / k * agreement
    return jax.nn.softmax(raised), lam


def collect(
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: Boosting,
    *,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """The base and k - 1 vectors [k, dim], and the lambda of each as weights [k].

    Each vector is trained on from the one before with the loss of image i multiplied by n w_i; its error is that of
    its labels for the training images, not augmented, in inference mode.
    """
    if data.labels.ndim != 1:
        raise SettingsError("boosting counts errors: it needs labels that are whole numbers, not probabilities")
    n = data.labels.shape[0]
    classes = jax.eval_shape(lambda x: model.apply(variables, data.plain(x)), rows(data.images, slice(1))).shape[1]

    def update(vector: Any, weights: Any, arrays: Any) -> tuple[Array, Array]:
        full = insert(subset, arrays["boosted"], vector)

        def wrong(index: Any) -> Any:
            images = devices.shard_rows(rows(arrays["plain"], index), callbacks.mesh)
            return jnp.argmax(model.apply(full, data.plain(images)), axis=1) != arrays["labels"][index]

        chunk = devices.multiple(min(CHUNK * devices.count(callbacks.mesh), n), callbacks.mesh)
        index = jnp.minimum(jnp.arange(-(-n // chunk) * chunk), n - 1).reshape(-1, chunk)
        return reweigh(weights, jax.lax.map(wrong, index).reshape(-1)[:n], classes, settings.eta)

    def saved(state: State, vector: Any, arrays: Any) -> State:
        weights, lam = update(vector, state.extra["weights"], arrays)
        row = state.step // (settings.epochs * (n // settings.batch))
        lambdas = state.extra["lambdas"].at[row].set(lam)
        return state._replace(extra={**state.extra, "weights": weights, "lambdas": lambdas})

    def slot(epoch: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.where(epoch % settings.epochs == 0, epoch // settings.epochs, -1)

    more = {"boosted": variables, "plain": data.images}
    even = jnp.full(n, 1.0 / n, jnp.float32)
    weights, lam = jax.jit(update)(flatten(subset, variables), even, {**more, "labels": data.labels})
    extra = {"weights": weights, "lambdas": jnp.zeros(settings.k, jnp.float32).at[0].set(lam)}
    reweighting = Reweighting(extra, more, lambda extra, index: n * extra["weights"][index], saved)
    optimizer = sgd(settings.lr, settings.momentum, settings.weight_decay)
    schedule = Schedule("boosting", optimizer, (settings.k - 1) * settings.epochs, slot)
    state = fine_tune(schedule, model, variables, subset, data, key, settings, callbacks, reweighting)
    return Checkpoints(state.extra["saved"], state.extra["lambdas"])


def cost(settings: Boosting, work: Work) -> Cost:
    """The epochs between checkpoints, and one pass of each checkpoint over the training images."""
    epochs = (settings.k - 1) * settings.epochs
    trained = fine_tuning_cost(settings, work, epochs, epochs)
    labelled = settings.k * work.images * work.operations.forward
    return trained._replace(operations=trained.operations + labelled)


COLLECTOR = Collector("boosting", Boosting(), collect, fine_tuning.needs, cost, has_weights=True)
