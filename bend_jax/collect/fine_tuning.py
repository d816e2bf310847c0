"""What collectors with one training in a row share: the subset is trained on, and saved at the ends of some epochs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from bend_jax import devices
from bend_jax.checks import SettingsError
from bend_jax.collect.collector import Problem, check_batch
from bend_jax.collect.frozen_features import FineTuning, SubsetLoss, optimizer, prepare
from bend_jax.minibatches import batch_of, shuffled
from bend_jax.subset import Subset, flatten
from bend_jax.training import (
    MIX_KEY,
    SEGMENT,
    Callbacks,
    Examples,
    Model,
    State,
    losses_of,
    make_step,
    start,
    train,
)

MIXUP = (
    "a of Beta(a, a): each image's features, where the network is cut, are mixed with another's and so are the targets "
    "(manifold mixup, Verma et al. 2019; on images, where BN statistics move, mixup, Zhang et al. 2018); 0: not at all"
)


class Schedule(NamedTuple):
    """One training of the subset. slot(completed epochs) -> the row of the checkpoints that the vector goes to, below
    0: none; drift: all BN statistics follow the minibatches; mixup: a of `mixed`, 0 for none."""

    name: str
    optimizer: optax.GradientTransformation
    epochs: int
    slot: Callable[[Int[Array, ""]], Int[Array, ""]]
    drift: bool = False
    mixup: float = 0.0


class Reweighting(NamedTuple):
    """Weights of the training images that change when a checkpoint is saved.

    extra: what the training's state carries of it; arrays: what else `saved` reads; weigh(extra, index): the weights of
    a minibatch's images, None where all count alike; saved(state, vector, arrays): the state once a vector was saved.
    """

    extra: dict[str, Any]
    arrays: dict[str, Any]
    weigh: Callable[[Any, Int[Array, " b"]], Float[Array, " b"]] | None
    saved: Callable[[State, Any, Any], State]


NONE = Reweighting({}, {}, None, lambda state, vector, arrays: state)


def fine_tune(
    schedule: Schedule,
    model: Model,
    variables: Any,
    subset: Subset,
    data: Examples,
    key: Key[Array, ""],
    settings: FineTuning,
    callbacks: Callbacks,
    reweighting: Reweighting = NONE,
) -> State:
    """Train the subset from the base; returns the last state, with extra["saved"]: the checkpoints [k, dim]. Row 0
    holds the base until a vector is put there."""
    n = data.labels.shape[0]
    key_views, key_order, key_steps = jax.random.split(key, 3)
    source = prepare(model, variables, subset, data, key_views, settings, callbacks, drift=schedule.drift)
    per_epoch = n // settings.batch
    arrays = devices.replicate(
        {**source.data, **reweighting.arrays, "key": key_steps, "order": key_order}, callbacks.mesh
    )

    def loss(vector: Any, extra: Any, arrays: Any, key: Any, step: Any) -> tuple[Array, Any]:
        index = batch_of(step, extra["order"], settings.batch)
        view = (step // per_epoch) % settings.views
        inputs = source.read(arrays, view, index, key)
        labels, share = arrays["labels"][index], 1.0
        if schedule.mixup:
            share = jax.random.beta(jax.random.fold_in(key, MIX_KEY), schedule.mixup, schedule.mixup)
            inputs = mixed(inputs, share)
        logits, rest = source.logits(vector, extra["rest"], arrays, inputs, key)
        losses = losses_of(model, logits, labels, settings.label_smoothing)
        if schedule.mixup:
            others = losses_of(model, logits, jnp.roll(labels, 1, axis=0), settings.label_smoothing)
            losses = share * losses + (1 - share) * others
        if reweighting.weigh is not None:
            losses = reweighting.weigh(extra, index) * losses
        return jnp.mean(losses), {**extra, "rest": rest}

    base = flatten(subset, variables)
    table = jnp.zeros((settings.k, subset.dim), base.dtype).at[0].set(base)
    carried = {"order": jnp.zeros(n, jnp.int32), "saved": table, "rest": source.rest_of(base, arrays)}
    wrapped = optimizer(subset, schedule.optimizer)
    return train(
        schedule.name,
        make_step(loss, wrapped),
        devices.replicate(start(base, wrapped, {**reweighting.extra, **carried}), callbacks.mesh),
        arrays,
        steps=schedule.epochs * per_epoch,
        segment=per_epoch,
        longest=SEGMENT,
        callbacks=callbacks,
        before=lambda state, done: shuffled(state, arrays, done // per_epoch),
        after=_saver(source, per_epoch, schedule.slot, reweighting.saved),
    )


def mixed(inputs: Any, share: Float[Array, ""]) -> Any:
    """share x_i + (1 - share) x_(i-1) of every array of a minibatch in random order; the first one gets the last.

    Raises SettingsError for whole numbers, which cannot be mixed.
    """

    def mix(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise SettingsError(
                f"mixup needs features that are real numbers, and the subset reads {x.dtype}: leave out of the subset "
                "the layer that takes them, or set mixup=0"
            )
        wide = x.astype(jnp.float32)
        return share * wide + (1 - share) * jnp.roll(wide, 1, axis=0)

    return jax.tree.map(mix, inputs)


def _saver(source: SubsetLoss, per_epoch: int, slot: Callable[..., Any], saved: Callable[..., State]) -> Any:
    """What follows an epoch: the vector is put into its row of the table, if it has one."""

    def after(state: State, arrays: Any) -> State:
        row = slot(state.step // per_epoch)

        def put(state: State) -> State:
            vector = source.vector_of(state.params, state.extra["rest"], arrays)
            table = state.extra["saved"].at[row].set(vector)
            return saved(state._replace(extra={**state.extra, "saved": table}), vector, arrays)

        return jax.lax.cond(row >= 0, put, lambda state: state, state)

    return after


def needs(settings: FineTuning, problem: Problem) -> None:
    """Raise SettingsError for a minibatch that is too large, or that the devices cannot share equally."""
    check_batch(settings.batch, problem.images)
    if settings.batch % problem.devices:
        raise SettingsError(
            f"batch={settings.batch} is split over {problem.devices} devices: give a multiple of their number, or use "
            "fewer of them (CUDA_VISIBLE_DEVICES)"
        )
