"""BEND's collector (section 3.1): fine-tune the subset, save it after every epoch."""

from typing import Any

import jax.numpy as jnp
import jax.random
from jaxtyping import Array, Key

from bend_jax.collect.features import Checkpoints, mean_loss, optimizer, prepare
from bend_jax.settings import Trajectory
from bend_jax.subset import Subset, flatten
from bend_jax.training import SILENT, Examples, Model, State, Watch, draw_batch, make_step, start, train


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
    """k vectors [k, dim]: everything but the subset is frozen, BN runs in inference mode with the base's statistics.

    (The published code lets running statistics drift meanwhile and evaluates with the old ones; here a member is
    exactly a function of its vector.)
    """
    n = data.labels.shape[0]
    key_views, key_order, key_steps = jax.random.split(key, 3)
    source = prepare(model, variables, subset, data, key_views, settings, watch)
    per_epoch = n // settings.batch
    arrays = {**source.data, "key": key_steps, "order": key_order}

    def loss(vector: Any, extra: Any, arrays: Any, key: Any, step: Any) -> tuple[Array, Any]:
        index, order = draw_batch(arrays["order"], step, extra["order"], settings.batch)
        view = (step // per_epoch) % settings.views
        logits = source.logits(vector, arrays, view, index)
        return mean_loss(logits, arrays["labels"][index]), {**extra, "order": order}

    def save(state: State, arrays: Any) -> State:
        saved = state.extra["saved"].at[state.step // per_epoch - 1].set(state.params)
        return state._replace(extra={**state.extra, "saved": saved})

    sgd = optimizer(subset, settings)
    extra = {"order": jnp.zeros(n, jnp.int32), "saved": jnp.zeros((settings.k, subset.dim))}
    state = start(flatten(subset, variables), sgd, extra)
    state = train(
        "trajectory",
        make_step(loss, sgd),
        state,
        arrays,
        steps=settings.k * per_epoch,
        segment=per_epoch,
        watch=watch,
        after=save,
    )
    return Checkpoints(state.extra["saved"])
